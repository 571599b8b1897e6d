"""Accepted JSON types of request bodies, and ids in their spellings (spec 01 §1.2, §3.1)."""

from __future__ import annotations

import msgspec
import pytest

from tests.domain.world import convert
from trustgate.domain import inputs, secrets
from trustgate.domain.values import is_http_url, parse_uuid

WRONG = [
    (inputs.ConsumerCreate, {"name": 5}),
    (inputs.ConsumerCreate, {"active": "yes"}),
    (inputs.ConsumerCreate, {"registries": {}}),
    (inputs.ConsumerCreate, {"headers": {"a": 1}}),
    (inputs.ConsumerCreate, {"registries": [{"id": "x", "weight": 1.0}]}),
    (inputs.PolicyCreate, {"priority": "5"}),
    (inputs.PolicyCreate, {"priority": 1.5}),
    (inputs.PolicyCreate, {"priority": 2**64}),
    (inputs.PolicyCreate, {"settings": [1]}),
    (inputs.PolicyCreate, {"stages": "pre_request"}),
    (inputs.RegistryCreate, {"auth": {"type": "gcp_service_account", "gcp_service_account": 5}}),
    (inputs.RegistryCreate, {"auth": {"type": "gcp_service_account", "gcp_service_account": []}}),
    (inputs.GatewayCreate, {"metadata": {"a": {}}}),
    (inputs.GatewayCreate, {"telemetry": {"exporters": [{"settings": 1}]}}),
    (inputs.RoleCreate, {"mcp_policies": []}),
]


@pytest.mark.parametrize(("type_", "body"), WRONG)
def test_members_of_another_json_type_are_refused(type_, body):
    with pytest.raises(msgspec.ValidationError):
        convert(body, type_)


def test_null_is_absent_everywhere_and_unknown_members_are_ignored():
    for type_ in (
        inputs.GatewayCreate,
        inputs.RegistryUpdate,
        inputs.ConsumerUpdate,
        inputs.PolicyUpdate,
        inputs.RoleUpdate,
    ):
        names = [field.encode_name for field in msgspec.structs.fields(type_)]
        assert convert(dict.fromkeys(names), type_) == type_()
        assert convert({"colour": "blue"}, type_) == type_()


def test_nulls_inside_lists_and_maps_are_empty_values():
    body = convert({"registries": [None], "headers": {"a": None}, "roles": [None]}, inputs.ConsumerCreate)
    assert (body.registries, body.headers, body.roles) == ([None], {"a": None}, [None])


def test_free_form_members_keep_big_numbers_and_nulls():
    settings = {"limit": 2**70, "nothing": None, "nested": {"list": [1, None, "x"]}}
    assert convert({"settings": settings}, inputs.PolicyCreate).settings == settings


CANONICAL = "0123abcd-0000-7000-8000-00000000cdef"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CANONICAL, CANONICAL),
        (CANONICAL.upper(), CANONICAL),
        (CANONICAL.replace("-", ""), CANONICAL),
        ("{" + CANONICAL + "}", CANONICAL),
        ("URN:UUID:" + CANONICAL, CANONICAL),
        ("", None),
        ("x", None),
        (CANONICAL[:-1], None),
        (CANONICAL[:-1] + "g", None),
        (CANONICAL + "\n", None),
        ("(" + CANONICAL + ")", None),
    ],
)
def test_ids_are_accepted_in_every_spelling_and_kept_in_one(text, expected):
    assert parse_uuid(text) == expected


@pytest.mark.parametrize(
    ("url", "valid"),
    [
        ("https://a.example/x?y", True),
        ("http://127.0.0.1:8080", True),
        ("HTTPS://a.example", True),
        ("ftp://a.example", False),
        ("http://", False),
        ("http:///path", False),
        ("a.example", False),
        ("http://a.example:port", False),
        ("http://[::1", False),
        ("", False),
    ],
)
def test_http_urls_have_a_scheme_and_a_host(url, valid):
    assert is_http_url(url) is valid


@pytest.mark.parametrize(
    ("value", "mask"),
    [
        ("12345678", "***"),
        ("123456789", "***6789"),
        ("ééééé", "***éé"),
        ("abcdefgé€", "***€"),
        ("😀😀😀", "***😀"),
        ("x", "***"),
    ],
)
def test_masks_show_four_bytes_of_a_secret_longer_than_eight(value, mask):
    assert secrets.mask(value) == mask

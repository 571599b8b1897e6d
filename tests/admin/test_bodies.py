"""Request bodies: content type, content coding, JSON and binding (spec 01 §1.2)."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import brotli
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trustgate.admin.bodies import BodyTooLarge, is_json, read_body
from trustgate.domain.errors import DomainError
from trustgate.domain.inputs import ConsumerCreate, GatewayCreate, PolicyCreate, RegistryCreate, RoleUpdate

LIMIT = 8 * 1024 * 1024
JSON = "application/json"


def read(data: bytes, into: type[Any] = PolicyCreate, coding: str | None = None, limit: int = LIMIT) -> Any:
    return read_body(data, JSON, coding, into, limit)


def sent(body: Any) -> dict[str, Any]:
    """The members that were taken from a body."""
    return {name: value for name, value in msgspec.to_builtins(body).items() if value is not None}


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ('{"name":"a"}', {"name": "a"}),
        ("null", {}),
        ("{}", {}),
        (' {"name" : "a"}\n', {"name": "a"}),
        ('{"NAME":"a","Enabled":true}', {"name": "a", "enabled": True}),
        ('{"name":"first","name":"second"}', {"name": "second"}),
        ('{"name":"first","NAME":"second","name":"third"}', {"name": "third"}),
        ('{"name":"kept","name":null}', {"name": "kept"}),
        ('{"name":null,"priority":null,"settings":null}', {}),
        ('{"unknown":{"deep":[1]},"name":"a"}', {"name": "a"}),
        ('{"priority":-9223372036854775808}', {"priority": -(2**63)}),
        ('{"stages":["a",null]}', {"stages": ["a", None]}),
        ('{"settings":{"Limit":1.0,"half":0.5,"big":123456789012345678901234567890,"list":[1e2]}}',
         {"settings": {"Limit": 1, "half": 0.5, "big": 123456789012345678901234567890, "list": [100]}}),
        ('{"settings":{"a":1,"A":2,"a":3}}', {"settings": {"a": 3, "A": 2}}),
        ('{"settings":{"none":null}}', {"settings": {"none": None}}),
        ('{"name":"\\ud83d\\ude00"}', {"name": "\U0001f600"}),
        ('{"name":"\\ud800"}', {"name": "�"}),
        ('{"name":"\\\\u0000"}', {"name": "\\u0000"}),
    ],
)  # fmt: skip
def test_members_are_taken_by_the_rules_of_the_contract(text: str, taken: dict[str, Any]) -> None:
    assert sent(read(text.encode())) == taken


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"name":"a"} x',
        "[]",
        '"text"',
        "1",
        "true",
        '{"name":5}',
        '{"name":["a"]}',
        '{"enabled":"true"}',
        '{"enabled":1}',
        '{"priority":"5"}',
        '{"priority":1.0}',
        '{"priority":1e2}',
        '{"priority":true}',
        '{"priority":9223372036854775808}',
        '{"settings":[1]}',
        '{"settings":"x"}',
        '{"stages":{}}',
        '{"stages":"pre_request"}',
        '{"stages":[1]}',
        '{"settings":{"a":NaN}}',
        '{"settings":{"a":Infinity}}',
        '{"settings":{"a":1e400}}',
        '{"name":"a\\u0000b"}',
        '{"settings":{"a\\u0000b":1}}',
        '{"ignored":"\\u0000"}',
        "{'name':'a'}",
        '{"name":"a",}',
        '{"name":"line\nbreak"}',
        "[" * 100_000,
    ],
)
def test_what_is_no_valid_body_is_refused_with_one_message(text: str) -> None:
    with pytest.raises(DomainError) as refusal:
        read(text.encode())
    assert (refusal.value.status, refusal.value.message) == (422, "invalid request body: validation failed")


def test_nested_members_match_in_any_case_too() -> None:
    body = read(
        b'{"AUTH":{"Type":"api_key","API_Key":{"Api_Key":"k"}},"provider_options":{"Kept_As":"Sent"}}', RegistryCreate
    )
    assert body.auth.type == "api_key"
    assert body.auth.api_key.api_key == "k"
    assert body.provider_options == {"Kept_As": "Sent"}


def test_maps_of_strings_keep_their_keys_and_refuse_other_values() -> None:
    assert read(b'{"metadata":{"Env":"prod","env":"dev"}}', GatewayCreate).metadata == {"Env": "prod", "env": "dev"}
    with pytest.raises(DomainError):
        read(b'{"metadata":{"env":1}}', GatewayCreate)


def test_a_service_account_may_be_text_or_an_object_but_nothing_else() -> None:
    for account, value in ((b'"text"', "text"), (b'{"a":1}', {"a": 1})):
        body = read(b'{"auth":{"type":"gcp_service_account","gcp_service_account":%s}}' % account, RegistryCreate)
        assert body.auth.gcp_service_account == value
    for account in (b"1", b"[]", b"true"):
        with pytest.raises(DomainError):
            read(b'{"auth":{"gcp_service_account":%s}}' % account, RegistryCreate)


def test_a_free_member_is_kept_whatever_its_type() -> None:
    assert read(b'{"oidc_mapping":[1,{"A":2}]}', RoleUpdate).oidc_mapping == [1, {"A": 2}]


def test_list_items_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(DomainError):
        read(b'{"registries":["id"]}', ConsumerCreate)
    assert read(b'{"registries":[{"ID":"x","Weight":3}]}', ConsumerCreate).registries[0].weight == 3


@pytest.mark.parametrize(
    ("content_type", "accepted"),
    [
        ("application/json", True),
        ("application/json; charset=utf-8", True),
        ("APPLICATION/JSON", True),
        ("application/merge-patch+json", True),
        ("text/json", True),
        (None, False),
        ("", False),
        ("json", False),
        ("text/plain", False),
        ("application/x-www-form-urlencoded", False),
        ("multipart/form-data; boundary=json", False),
        ("application/xml", False),
        ("application/jsonl", False),
    ],
)
def test_only_media_types_that_end_in_json_are_read(content_type: str | None, accepted: bool) -> None:
    assert is_json(content_type) is accepted


BODY = b'{"name":"a"}'
RAW_DEFLATE = zlib.compressobj(wbits=-15)


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("gzip", gzip.compress(BODY)),
        ("GZIP", gzip.compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", RAW_DEFLATE.compress(BODY) + RAW_DEFLATE.flush()),
        ("br", brotli.compress(BODY)),
        ("identity", BODY),
        ("", BODY),
        ("deflate, gzip", gzip.compress(zlib.compress(BODY))),
    ],
)
def test_content_codings_are_undone(coding: str, data: bytes) -> None:
    assert read(data, coding=coding).name == "a"


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("gzip", BODY),
        ("gzip", gzip.compress(BODY)[:-9]),
        ("br", b"\xff\xff\xff"),
        ("br", brotli.compress(BODY)[:-1]),
        ("deflate", b"\x00\x01"),
        ("zstd", BODY),
        ("gzip, gzip, gzip, gzip", BODY),
    ],
)
def test_broken_and_unknown_codings_are_an_invalid_body(coding: str, data: bytes) -> None:
    with pytest.raises(DomainError):
        read(data, coding=coding)


@pytest.mark.parametrize(
    ("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("br", brotli.compress)]
)
def test_a_body_may_not_inflate_beyond_the_limit(coding: str, compress: Any) -> None:
    fitting = b'{"name":"' + b"a" * 500 + b'"}'
    assert read(compress(fitting), coding=coding, limit=len(fitting)).name == "a" * 500
    with pytest.raises(BodyTooLarge):
        read(compress(fitting), coding=coding, limit=len(fitting) - 1)
    with pytest.raises(BodyTooLarge):
        read(compress(b" " * 50_000_000), coding=coding, limit=1000)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5), JSON_VALUES, max_size=4)
)
def test_free_members_come_back_as_they_were_sent(free: dict[str, Any]) -> None:
    text = msgspec.json.encode({"settings": free})
    if b"\\u0000" not in text:
        assert read(text).settings == free


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200), st.sampled_from(["", "gzip", "deflate", "br", "identity, br"]))
def test_no_bytes_make_the_reader_fail_otherwise_than_by_refusal(data: bytes, coding: str) -> None:
    try:
        read(data, ConsumerCreate, coding)
    except DomainError as refusal:
        assert refusal.status == 422


@pytest.mark.parametrize(("left", "right"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize(("depth", "taken"), [(100, True), (101, False), (500, False), (900, False), (100_000, False)])
def test_values_are_nested_only_so_deep(left: str, right: str, depth: int, taken: bool) -> None:
    inner = left * (depth - 2) + ('"\\u0041"' if left != "[" else "") + right * (depth - 2)
    data = f'{{"name":"a","settings":{{"x":{inner}}}}}'.encode()
    if taken:
        assert read(data).name == "a"
        return
    with pytest.raises(DomainError, match="invalid request body"):
        read(data)

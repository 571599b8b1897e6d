"""Requests that use nearly all of each client dialect, every value another one, so that it can be found again."""

from __future__ import annotations

from typing import Any

OPENAI: dict[str, Any] = {
    "model": "m",
    "temperature": 0.123,
    "top_p": 0.456,
    "top_k": 77,
    "max_completion_tokens": 7001,
    "stop": ["stop-a"],
    "n": 3,
    "seed": 7002,
    "presence_penalty": 0.17,
    "frequency_penalty": 0.18,
    "logit_bias": {"50": -1},
    "logprobs": True,
    "top_logprobs": 5,
    "user": "user-x",
    "metadata": {"mk": "mv"},
    "service_tier": "flex",
    "store": True,
    "parallel_tool_calls": False,
    "reasoning_effort": "high",
    "verbosity": "low-verb",
    "prediction": {"type": "content", "content": "pred"},
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy-x", "format": "mp3"},
    "web_search_options": {"search_context_size": "ws"},
    "safety_identifier": "sid",
    "prompt_cache_key": "pck",
    "functions": [{"name": "oldf"}],
    "function_call": "auto",
    "response_format": {
        "type": "json_schema",
        "json_schema": {
            "name": "rfname",
            "description": "rfdesc",
            "strict": True,
            "schema": {"type": "object", "properties": {"rfprop": {"type": "string"}}},
        },
    },
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "fone",
                "description": "fdesc",
                "strict": True,
                "parameters": {"type": "object", "properties": {"fprop": {"type": "integer"}}},
            },
        },
        {
            "type": "custom",
            "custom": {
                "name": "cone",
                "description": "cdesc",
                "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "gdef"}},
            },
        },
        {"type": "web_search_tool"},
    ],
    "tool_choice": {"type": "function", "function": {"name": "fone"}},
    "messages": [
        {"role": "system", "content": "sys1", "name": "sysname"},
        {"role": "developer", "content": [{"type": "text", "text": "dev1"}]},
        {
            "role": "user",
            "name": "uname",
            "content": [
                {"type": "text", "text": "utext", "cache_control": {"type": "ephemeral-cc"}},
                {"type": "image_url", "image_url": {"url": "https://x/img1", "detail": "high-d"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,aW1hZ2U="}},
                {"type": "input_audio", "input_audio": {"data": "YXVkaW8=", "format": "wav"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,cGRm", "filename": "doc-pdf"}},
                {"type": "file", "file": {"file_id": "file-77"}},
                {"type": "video_url", "video_url": {"url": "https://x/vid"}},
            ],
        },
        {
            "role": "assistant",
            "content": "atext",
            "refusal": "aref",
            "reasoning_content": "areason",
            "audio": {"id": "aud1"},
            "annotations": [{"type": "url_citation", "url": "anno"}],
            "function_call": {"name": "oldcall", "arguments": "{}"},
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "fone", "arguments": '{"x":"argv"}'}},
                {"id": "call_2", "type": "custom", "custom": {"name": "cone", "input": "free text"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "tres"}]},
        {"role": "tool", "tool_call_id": "call_2", "content": "tres2"},
        {"role": "function", "name": "oldcall", "content": "fres"},
        {"role": "user", "content": "last"},
    ],
}

RESPONSES: dict[str, Any] = {
    "model": "m",
    "temperature": 0.123,
    "top_p": 0.456,
    "max_output_tokens": 7001,
    "instructions": "instr",
    "user": "user-x",
    "metadata": {"mk": "mv"},
    "service_tier": "flex",
    "store": True,
    "parallel_tool_calls": False,
    "reasoning": {"effort": "high", "summary": "detailed-s", "generate_summary": "gs"},
    "text": {
        "verbosity": "low-verb",
        "format": {
            "type": "json_schema",
            "name": "rfname",
            "description": "rfdesc",
            "strict": True,
            "schema": {"type": "object", "properties": {"rfprop": {"type": "string"}}},
        },
    },
    "include": ["incl"],
    "truncation": "auto-t",
    "top_logprobs": 5,
    "background": True,
    "max_tool_calls": 7003,
    "prompt": {"id": "pmpt"},
    "previous_response_id": "resp_1",
    "conversation": "conv_1",
    "prompt_cache_key": "pck",
    "safety_identifier": "sid",
    "stream_options": {"include_obfuscation": False},
    "tools": [
        {
            "type": "function",
            "name": "fone",
            "description": "fdesc",
            "strict": True,
            "parameters": {"type": "object", "properties": {"fprop": {"type": "integer"}}},
        },
        {"type": "custom", "name": "cone", "description": "cdesc", "format": {"type": "grammar", "definition": "gdef"}},
        {"type": "web_search_preview"},
        {"type": "mcp", "server_label": "slabel"},
    ],
    "tool_choice": {"type": "function", "name": "fone"},
    "input": [
        {"role": "developer", "content": "dev1"},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "utext"},
                {"type": "input_image", "image_url": "https://x/img1", "detail": "high-d"},
                {"type": "input_image", "file_id": "file-88"},
                {"type": "input_image", "image_url": "data:image/png;base64,aW1hZ2U="},
                {"type": "input_file", "filename": "doc-pdf", "file_data": "data:application/pdf;base64,cGRm"},
                {"type": "input_file", "file_id": "file-77"},
                {"type": "input_file", "file_url": "https://x/file"},
                {"type": "input_audio", "input_audio": {"data": "YXVkaW8=", "format": "wav"}},
            ],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "rsum"}],
            "encrypted_content": "enc",
        },
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_9",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "atext", "annotations": [{"type": "url_citation", "url": "anno"}]},
                {"type": "refusal", "refusal": "aref"},
            ],
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "call_1",
            "name": "fone",
            "arguments": '{"x":"argv"}',
            "status": "completed",
        },
        {"type": "custom_tool_call", "call_id": "call_2", "name": "cone", "input": "free text"},
        {
            "type": "function_call_output",
            "call_id": "call_1",
            "output": [{"type": "input_text", "text": "tres"}, {"type": "input_image", "image_url": "https://x/img9"}],
        },
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": "tres2"},
        {"type": "web_search_call", "id": "ws_1"},
        {"type": "item_reference", "id": "ref_1"},
        {"role": "user", "content": "last"},
    ],
}

ANTHROPIC: dict[str, Any] = {
    "model": "m",
    "max_tokens": 7001,
    "temperature": 0.123,
    "top_k": 77,
    "top_p": 0.456,
    "stop_sequences": ["stop-a"],
    "metadata": {"user_id": "user-x"},
    "service_tier": "auto-t",
    "container": "cont",
    "context_management": {"edits": [{"type": "cme"}]},
    "mcp_servers": [{"url": "mcpu"}],
    "inference_geo": "ig",
    "thinking": {"type": "enabled", "budget_tokens": 2048, "display": "disp"},
    "output_config": {
        "effort": "high",
        "format": {"type": "json_schema", "schema": {"type": "object", "properties": {"rfprop": {"type": "string"}}}},
    },
    "system": [{"type": "text", "text": "sys1", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "tools": [
        {
            "name": "fone",
            "description": "fdesc",
            "strict": True,
            "input_schema": {"type": "object", "properties": {"fprop": {"type": "integer"}}},
            "cache_control": {"type": "ephemeral", "ttl": "1h"},
            "defer_loading": True,
            "input_examples": [{"fprop": 7009}],
            "allowed_callers": ["acall"],
        },
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 7008, "allowed_domains": ["adom"]},
    ],
    "tool_choice": {"type": "tool", "name": "fone", "disable_parallel_tool_use": True},
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "utext", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aW1hZ2U="}},
                {"type": "image", "source": {"type": "url", "url": "https://x/img1"}},
                {"type": "image", "source": {"type": "file", "file_id": "file-88"}},
                {
                    "type": "document",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": "cGRm"},
                    "title": "doc-pdf",
                    "context": "dctx",
                    "citations": {"enabled": True},
                },
                {
                    "type": "document",
                    "source": {"type": "text", "media_type": "text/plain", "data": "plaindoc"},
                    "title": "ptitle",
                },
                {"type": "document", "source": {"type": "url", "url": "https://x/file"}},
                {
                    "type": "document",
                    "source": {"type": "content", "content": [{"type": "text", "text": "doccontent"}]},
                },
                {
                    "type": "search_result",
                    "source": "srcx",
                    "title": "srt",
                    "content": [{"type": "text", "text": "srtext"}],
                },
                {"type": "container_upload", "file_id": "cu"},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "areason", "signature": "sigx"},
                {"type": "redacted_thinking", "data": "redx"},
                {
                    "type": "text",
                    "text": "atext",
                    "citations": [{"type": "char_location", "cited_text": "cited"}],
                    "cache_control": {"type": "ephemeral", "ttl": "1h"},
                },
                {
                    "type": "tool_use",
                    "id": "call_1",
                    "name": "fone",
                    "input": {"x": "argv"},
                    "cache_control": {"type": "ephemeral", "ttl": "1h"},
                },
                {"type": "server_tool_use", "id": "stu", "name": "web_search", "input": {}},
                {"type": "web_search_tool_result", "tool_use_id": "stu", "content": []},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "call_1",
                    "is_error": True,
                    "content": [
                        {"type": "text", "text": "tres"},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "cmVzaW1n"}},
                    ],
                    "cache_control": {"type": "ephemeral", "ttl": "1h"},
                },
                {"type": "text", "text": "last"},
            ],
        },
    ],
}

GEMINI: dict[str, Any] = {
    "model": "m",
    "systemInstruction": {"parts": [{"text": "sys1"}]},
    "cachedContent": "cachedc",
    "labels": {"lk": "lv"},
    "safetySettings": [{"category": "HARM", "threshold": "TH"}],
    "generationConfig": {
        "maxOutputTokens": 7001,
        "temperature": 0.123,
        "topP": 0.456,
        "topK": 77,
        "stopSequences": ["stop-a"],
        "seed": 7002,
        "presencePenalty": 0.17,
        "frequencyPenalty": 0.18,
        "candidateCount": 3,
        "responseLogprobs": True,
        "logprobs": 5,
        "responseMimeType": "application/json",
        "responseSchema": {"type": "OBJECT", "properties": {"rfprop": {"type": "STRING"}}},
        "thinkingConfig": {"thinkingBudget": 2048, "includeThoughts": True},
        "responseModalities": ["TEXT"],
        "speechConfig": {"languageCode": "lc"},
        "mediaResolution": "MR",
        "enableEnhancedCivicAnswers": True,
    },
    "tools": [
        {
            "functionDeclarations": [
                {
                    "name": "fone",
                    "description": "fdesc",
                    "parameters": {"type": "OBJECT", "properties": {"fprop": {"type": "INTEGER"}}},
                    "response": {"type": "OBJECT"},
                    "behavior": "NON_BLOCKING",
                }
            ]
        },
        {"googleSearch": {}},
        {"codeExecution": {}},
    ],
    "toolConfig": {
        "functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["fone"]},
        "retrievalConfig": {"languageCode": "rlc"},
    },
    "contents": [
        {
            "role": "user",
            "parts": [
                {"text": "utext"},
                {"inlineData": {"mimeType": "image/png", "data": "aW1hZ2U="}, "videoMetadata": {"fps": 7}},
                {"fileData": {"mimeType": "image/png", "fileUri": "https://x/img1"}},
                {"inlineData": {"mimeType": "audio/wav", "data": "YXVkaW8="}},
                {"fileData": {"mimeType": "audio/wav", "fileUri": "https://x/aud"}},
                {"inlineData": {"mimeType": "application/pdf", "data": "cGRm", "displayName": "doc-pdf"}},
                {"inlineData": {"mimeType": "video/mp4", "data": "dmlk"}},
                {"fileData": {"mimeType": "application/pdf", "fileUri": "https://x/file"}},
            ],
        },
        {
            "role": "model",
            "parts": [
                {"text": "areason", "thought": True, "thoughtSignature": "sigt"},
                {"text": "atext", "thoughtSignature": "sigx"},
                {"functionCall": {"id": "call_1", "name": "fone", "args": {"x": "argv"}}, "thoughtSignature": "sigf"},
                {"executableCode": {"code": "ecode"}},
                {"codeExecutionResult": {"output": "cer"}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {
                    "functionResponse": {
                        "id": "call_1",
                        "name": "fone",
                        "response": {"r": "tres"},
                        "scheduling": "SIL",
                        "parts": [{"inlineData": {"mimeType": "image/png", "data": "cmVzaW1n"}}],
                    }
                },
                {"text": "last"},
            ],
        },
    ],
}

COHERE: dict[str, Any] = {
    "model": "m",
    "max_tokens": 7001,
    "temperature": 0.123,
    "p": 0.456,
    "k": 77,
    "stop_sequences": ["stop-a"],
    "seed": 7002,
    "presence_penalty": 0.17,
    "frequency_penalty": 0.18,
    "safety_mode": "STRICT",
    "logprobs": True,
    "documents": [{"data": {"d": "docx"}}],
    "citation_options": {"mode": "FAST"},
    "priority": 7005,
    "raw_prompting": True,
    "thinking": {"type": "enabled", "token_budget": 2048},
    "strict_tools": True,
    "tool_choice": "REQUIRED",
    "response_format": {
        "type": "json_object",
        "json_schema": {"type": "object", "properties": {"rfprop": {"type": "string"}}},
    },
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "fone",
                "description": "fdesc",
                "parameters": {"type": "object", "properties": {"fprop": {"type": "integer"}}},
            },
        }
    ],
    "messages": [
        {"role": "system", "content": "sys1"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "utext"},
                {"type": "image_url", "image_url": {"url": "https://x/img1", "detail": "high-d"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,aW1hZ2U="}},
                {"type": "document", "document": {"data": {"text": "doct"}}},
            ],
        },
        {
            "role": "assistant",
            "tool_plan": "plan",
            "content": [{"type": "thinking", "thinking": "areason"}, {"type": "text", "text": "atext"}],
            "citations": [{"text": "cited"}],
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "fone", "arguments": '{"x":"argv"}'}}
            ],
        },
        {
            "role": "tool",
            "tool_call_id": "call_1",
            "content": [{"type": "document", "document": {"data": "tres", "id": "docid"}}],
        },
        {"role": "user", "content": "last"},
    ],
}

RICH = {"openai": OPENAI, "openai_responses": RESPONSES, "anthropic": ANTHROPIC, "google": GEMINI, "cohere": COHERE}

TARGETS = [
    ("openai", "m"),
    ("groq", "m"),
    ("mistral", "m"),
    ("openai_responses", "m"),
    ("anthropic", "m"),
    ("google", "m"),
    ("cohere", "m"),
    ("bedrock", "anthropic.claude-x"),
    ("bedrock", "amazon.nova-x"),
    ("bedrock", "qwen.x"),
    ("bedrock", "amazon.titan-x"),
    ("bedrock", "meta.llama-x"),
    ("bedrock", "mistral.mistral-7b-instruct"),
    ("bedrock_converse", "amazon.nova-x"),
]

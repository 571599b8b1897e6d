"""LLM providers: where a call goes, what proves who is calling, and what its answer says.

`prepare` turns a client's request into one upstream attempt and back; `registry` lists the providers, one module each;
`probe` tests a connection; `catalog` and `prices` tell what models exist and cost. Nothing here sends traffic, retries
or chooses a registry: that is the proxy's.
"""

"""Properties of a configuration, tried on the proxy's own pipeline with upstreams that fail on purpose."""

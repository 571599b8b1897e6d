"""Why a request went as it did, and how it would go under another configuration, worked out from recorded decisions."""

"""What the data planes decided, request by request, kept locally for a bounded time: for `explain` and `plan`."""

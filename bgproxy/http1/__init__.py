"""HTTP/1.1 as bytes and messages (RFC 9110, RFC 9112). Pure: no socket, no clock, no asyncio."""

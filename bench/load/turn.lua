-- What wrk sends: "turn" is an agent client's POST (13 fields with Host, 1 KiB of JSON), "small" a GET with two.
-- The totals go out as one line that compare.py reads.

local function turn()
  wrk.method = "POST"
  local open = '{"model":"agent-1","stream":false,"messages":[{"role":"user","content":"'
  local close = '"}]}'
  wrk.body = open .. string.rep("x", 1024 - #open - #close) .. close
  wrk.headers["User-Agent"] = "OpenAI/Python 3.54.0"
  wrk.headers["Accept"] = "application/json, text/event-stream"
  wrk.headers["Accept-Encoding"] = "gzip, deflate"
  wrk.headers["Connection"] = "keep-alive"
  wrk.headers["Content-Type"] = "application/json"
  wrk.headers["Authorization"] = "Bearer sk-bench-0123456789abcdef0123456789abcdef0123"
  wrk.headers["Mcp-Session-Id"] = "6f1c1d8e-52a7-4c5e-9f4a-0b7d8a3c2e11"
  wrk.headers["Mcp-Protocol-Version"] = "2025-11-25"
  wrk.headers["Traceparent"] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
  wrk.headers["X-Request-Id"] = "5e0f1d1c-8a2b-4a7e-b2b6-6d2f9c1b7a90"
  wrk.headers["X-Stainless-Lang"] = "python"
end

function init(args)
  if args[1] == "turn" then
    turn()
  else
    wrk.headers["Accept"] = "*/*"
  end
end

function done(summary, latency)
  local bad = summary.errors
  io.write(string.format("totals %d %d %d %d %d\n", summary.requests, summary.duration,
    bad.connect + bad.read + bad.write + bad.timeout + bad.status,
    latency:percentile(50), latency:percentile(99)))
end

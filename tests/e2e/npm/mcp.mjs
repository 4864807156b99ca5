// Conversations by the npm clients of MCP, led by lines of JSON: {"id", "do": "begin" | "turn" | "close", ...} → {"id", ...}.
//
// One process holds all of them. `sdk` speaks the handshake era, `client` is its successor and speaks 2026-07-28.

import { createInterface } from "node:readline";
import { Client as ModernClient, StreamableHTTPClientTransport as ModernTransport } from "@modelcontextprotocol/client";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

// Its own patience with a server that is started again: it would give a stream up after two attempts.
const reconnectionOptions = {
  initialReconnectionDelay: 100,
  maxReconnectionDelay: 500,
  reconnectionDelayGrowFactor: 1.5,
  maxRetries: 30,
};
const timeout = 5_000; // milliseconds for one call

const talks = new Map();

// A stateful session of the handshake era. Every other turn is a stream that has to be resumed.
async function session(url) {
  const client = new Client({ name: "crowd", version: "1" });
  const transport = new StreamableHTTPClientTransport(new URL(`${url}/mcp`), { reconnectionOptions });
  transport.onerror = () => {}; // a stream that broke off is taken up again by the transport itself
  await client.connect(transport);
  return {
    async turn(number) {
      const name = number % 2 ? "work" : "say";
      const result = await client.callTool({ name, arguments: { word: String(number) } }, undefined, { timeout });
      if (result.isError) throw new Error(result.content[0].text);
      return JSON.parse(result.content[0].text);
    },
    async close() {
      await transport.terminateSession();
      await client.close();
    },
  };
}

// 2026-07-28: each round sends back the `requestState` of the one before.
async function state(url) {
  const client = new ModernClient(
    { name: "crowd", version: "1" },
    {
      capabilities: { elicitation: { form: {} } },
      versionNegotiation: { mode: { pin: "2026-07-28" } },
      inputRequired: { autoFulfill: false },
    },
  );
  await client.connect(new ModernTransport(new URL(`${url}/mcp`)));
  let known = {};
  return {
    async turn(number) {
      if (number) known.inputResponses = { word: { action: "accept", content: { word: String(number) } } };
      const asked = await client.callTool(
        { name: "ask", arguments: {}, ...known },
        { timeout, allowInputRequired: true },
      );
      known = { requestState: asked.requestState };
      return JSON.parse(asked.inputRequests.word.params.message);
    },
    close: () => client.close(),
  };
}

const ways = { session, state };

async function begin({ talk, way, url }) {
  talks.set(talk, await ways[way](url));
  return {};
}

async function turn({ talk, number }) {
  return { said: await talks.get(talk).turn(number) };
}

async function close({ talk }) {
  const closing = talks.get(talk);
  talks.delete(talk);
  await closing.close();
  return {};
}

const verbs = { begin, turn, close };
for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  verbs[order.do](order)
    .catch((error) => ({ error: `${error.name} ${error.code ?? ""} ${error.message}` }))
    .then((answer) => process.stdout.write(`${JSON.stringify({ id: order.id, ...answer })}\n`));
}
process.exit(0);

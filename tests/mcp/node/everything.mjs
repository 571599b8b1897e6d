// An MCP server on the official SDK with everything that the public conformance suite asks for, as an upstream.
// Prints its port. Sessions keep their events, so that a broken stream can be resumed.
import { randomUUID } from "node:crypto";
import { McpServer, ResourceTemplate } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import {
  CompleteRequestSchema,
  ElicitResultSchema,
  CreateMessageResultSchema,
  ListToolsRequestSchema,
  SubscribeRequestSchema,
  UnsubscribeRequestSchema,
  isInitializeRequest,
} from "@modelcontextprotocol/sdk/types.js";
import { InMemoryEventStore } from "@modelcontextprotocol/sdk/examples/shared/inMemoryEventStore.js";
import http from "node:http";
import { z } from "zod";

const PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==";
const WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=";
const text = (value) => ({ content: [{ type: "text", text: value }] });
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const transports = new Map();
const built = new Set();
const WATCHED = "test://watched-resource";
const seen = { cancelled: 0, calls: 0 };

function build() {
  const capabilities = { logging: {}, completions: {}, tools: {}, resources: { subscribe: true }, prompts: {} };
  const server = new McpServer({ name: "everything", version: "1.0.0" }, { capabilities });

  const tool = (name, run, inputSchema = {}) =>
    server.registerTool(name, { description: `The tool ${name}`, inputSchema }, run);
  tool("test_simple_text", async () => text("This is a simple text response for testing."));
  tool("test_image_content", async () => ({ content: [{ type: "image", data: PNG, mimeType: "image/png" }] }));
  tool("test_audio_content", async () => ({ content: [{ type: "audio", data: WAV, mimeType: "audio/wav" }] }));
  const embedded = { uri: "test://embedded-resource", mimeType: "text/plain", text: "This is an embedded resource content." };
  tool("test_embedded_resource", async () => ({ content: [{ type: "resource", resource: embedded }] }));
  tool("test_multiple_content_types", async () => ({
    content: [
      { type: "text", text: "Multiple content types test:" },
      { type: "image", data: PNG, mimeType: "image/png" },
      { type: "resource", resource: { ...embedded, uri: "test://mixed-content-resource" } },
    ],
  }));
  tool("test_error_handling", async () => ({
    isError: true,
    content: [{ type: "text", text: "This tool intentionally returns an error for testing" }],
  }));
  tool("test_tool_with_logging", async (_, extra) => {
    for (const data of ["Tool execution started", "Tool processing data", "Tool execution completed"]) {
      await extra.sendNotification({ method: "notifications/message", params: { level: "info", logger: "t", data } });
      await pause(20);
    }
    return text("Tool with logging executed successfully");
  });
  tool("test_tool_with_progress", async (_, extra) => {
    const progressToken = extra._meta?.progressToken;
    for (const progress of [0, 50, 100]) {
      if (progressToken !== undefined) {
        const params = { progressToken, progress, total: 100, message: `at ${progress}` };
        await extra.sendNotification({ method: "notifications/progress", params });
      }
      await pause(20);
    }
    return text(String(progressToken));
  });
  // Reports progress until it is cancelled.
  tool("endless", async (_, extra) => {
    const progressToken = extra._meta?.progressToken;
    seen.calls += 1;
    for (let progress = 0; !extra.signal.aborted; progress += 1) {
      if (progressToken !== undefined)
        await extra.sendNotification({ method: "notifications/progress", params: { progressToken, progress } });
      await pause(20);
    }
    seen.cancelled += 1;
    return text("never seen");
  });
  // Reports progress once, waits until it is released, then answers.
  tool("held", async ({ key }, extra) => {
    const progressToken = extra._meta?.progressToken;
    if (progressToken !== undefined)
      await extra.sendNotification({ method: "notifications/progress", params: { progressToken, progress: 1 } });
    while (!released.has(key) && !extra.signal.aborted) await pause(20);
    return text(`held ${key}`);
  }, { key: z.string() });
  tool("seen", async () => text(JSON.stringify(seen)));
  tool("test_sampling", async ({ prompt }, extra) => {
    const messages = [{ role: "user", content: { type: "text", text: prompt } }];
    const request = { method: "sampling/createMessage", params: { messages, maxTokens: 100 } };
    const result = await extra.sendRequest(request, CreateMessageResultSchema);
    return text(`LLM response: ${result.content.text ?? JSON.stringify(result.content)}`);
  }, { prompt: z.string() });
  const elicit = async (extra, message, requestedSchema) => {
    const result = await extra.sendRequest({ method: "elicitation/create", params: { message, requestedSchema } }, ElicitResultSchema);
    return text(`action=${result.action}, content=${JSON.stringify(result.content ?? {})}`);
  };
  tool("test_elicitation", async ({ message }, extra) => {
    const properties = { username: { type: "string" }, email: { type: "string" } };
    return elicit(extra, message, { type: "object", properties, required: ["username", "email"] });
  }, { message: z.string() });
  tool("test_elicitation_sep1034_defaults", async (_, extra) =>
    elicit(extra, "Please review and update the form fields with defaults", {
      type: "object",
      properties: {
        name: { type: "string", default: "John Doe" },
        age: { type: "integer", default: 30 },
        score: { type: "number", default: 95.5 },
        status: { type: "string", enum: ["active", "inactive", "pending"], default: "active" },
        verified: { type: "boolean", default: true },
      },
      required: [],
    }));
  const titled = ["1", "2", "3"].map((n) => ({ const: `value${n}`, title: `Option ${n}` }));
  tool("test_elicitation_sep1330_enums", async (_, extra) =>
    elicit(extra, "Please select options from the enum fields", {
      type: "object",
      properties: {
        untitledSingle: { type: "string", enum: ["option1", "option2", "option3"] },
        titledSingle: { type: "string", oneOf: titled },
        legacyEnum: { type: "string", enum: ["opt1", "opt2", "opt3"], enumNames: ["Option 1", "Option 2", "Option 3"] },
        untitledMulti: { type: "array", items: { type: "string", enum: ["option1", "option2", "option3"] } },
        titledMulti: { type: "array", items: { anyOf: titled } },
      },
      required: [],
    }));
  // Ends its stream before the answer, which is had by resuming.
  tool("test_reconnection", async (_, extra) => {
    extra.closeSSEStream?.();
    await pause(100);
    return text("Reconnection test completed successfully");
  });
  tool("json_schema_2020_12_tool", async () => text("ok"));

  const resource = (name, uri, content) => server.registerResource(name, uri, { description: name }, async () => ({ contents: [{ uri, ...content }] }));
  resource("static-text", "test://static-text", { mimeType: "text/plain", text: "This is the content of the static text resource." });
  resource("static-binary", "test://static-binary", { mimeType: "image/png", blob: PNG });
  resource("watched-resource", "test://watched-resource", { mimeType: "text/plain", text: "Watched." });
  server.registerResource(
    "template",
    new ResourceTemplate("test://template/{id}/data", { list: undefined }),
    { description: "A template", mimeType: "application/json" },
    async (uri, { id }) => ({
      contents: [{ uri: uri.href, mimeType: "application/json", text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` }) }],
    }),
  );

  const user = (content) => ({ messages: [{ role: "user", content }] });
  const prompt = (name, run, argsSchema) => server.registerPrompt(name, { description: name, argsSchema }, run);
  prompt("test_simple_prompt", async () => user({ type: "text", text: "This is a simple prompt for testing." }));
  prompt("test_prompt_with_arguments", async ({ arg1, arg2 }) =>
    user({ type: "text", text: `Prompt with arguments: arg1='${arg1}', arg2='${arg2}'` }), { arg1: z.string(), arg2: z.string() });
  prompt("test_prompt_with_embedded_resource", async ({ resourceUri }) => ({
    messages: [
      { role: "user", content: { type: "resource", resource: { uri: resourceUri, mimeType: "text/plain", text: "Embedded." } } },
      { role: "user", content: { type: "text", text: "Please process the embedded resource above." } },
    ],
  }), { resourceUri: z.string() });
  prompt("test_prompt_with_image", async () => ({
    messages: [
      { role: "user", content: { type: "image", data: PNG, mimeType: "image/png" } },
      { role: "user", content: { type: "text", text: "Please analyze the image above." } },
    ],
  }));

  const inner = server.server;
  inner.setRequestHandler(CompleteRequestSchema, async ({ params }) => ({
    completion: { values: [`${params.argument.value}-one`, `${params.argument.value}-two`], total: 2, hasMore: false },
  }));
  const watched = new Set();
  inner.setRequestHandler(SubscribeRequestSchema, async ({ params }) => (watched.add(params.uri), {}));
  inner.setRequestHandler(UnsubscribeRequestSchema, async ({ params }) => (watched.delete(params.uri), {}));
  // Says something outside of every call, on this session's own stream.
  tool("say", async ({ what }) => {
    if (what === "updated") await inner.sendResourceUpdated({ uri: WATCHED });
    if (what === "log") await inner.notification({ method: "notifications/message", params: { level: "warning", data: "aside" } });
    if (what === "tools" && !server.added) server.added = tool("added", async () => text("added"));
    return text(what);
  }, { what: z.string() });
  built.add({ inner, watched });
  const list = inner._requestHandlers.get("tools/list");
  inner.setRequestHandler(ListToolsRequestSchema, async (request, extra) => {
    const found = await list(request, extra);
    const schema = {
      $schema: "https://json-schema.org/draft/2020-12/schema",
      type: "object",
      $defs: { address: { type: "object", properties: { street: { type: "string" }, city: { type: "string" } } } },
      properties: { name: { type: "string" }, address: { $ref: "#/$defs/address" } },
      additionalProperties: false,
    };
    for (const one of found.tools) if (one.name === "json_schema_2020_12_tool") one.inputSchema = schema;
    return found;
  });
  return server;
}

const released = new Set();
const listened = new Set();

async function handle(request, response) {
  if (request.url.startsWith("/release/")) {
    released.add(request.url.slice("/release/".length));
    return response.writeHead(204).end();
  }
  // Tells every session that has subscribed and is listened to; how many there are.
  if (request.url === "/touch") {
    const found = [...built].filter(({ inner, watched }) => watched.has(WATCHED) && listened.has(inner.transport?.sessionId));
    for (const { inner } of found) inner.sendResourceUpdated({ uri: WATCHED }).catch(() => {});
    return response.writeHead(200).end(String(found.length));
  }
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = chunks.length ? JSON.parse(Buffer.concat(chunks).toString()) : undefined;
  const id = request.headers["mcp-session-id"];
  let transport = id && transports.get(id);
  if (!transport) {
    if (id || !isInitializeRequest(body)) return response.writeHead(404).end("session not found");
    transport = new StreamableHTTPServerTransport({
      sessionIdGenerator: () => randomUUID(),
      eventStore: new InMemoryEventStore(),
      retryInterval: 100,
      onsessioninitialized: (created) => void transports.set(created, transport),
    });
    transport.onclose = () => transports.delete(transport.sessionId);
    await build().connect(transport);
  }
  if (request.method === "GET" && !request.headers["last-event-id"]) {
    listened.add(id);
    response.on("close", () => listened.delete(id));
  }
  await transport.handleRequest(request, response, body);
}

const server = http.createServer((request, response) => {
  handle(request, response).catch((error) => {
    console.error(error);
    if (!response.headersSent) response.writeHead(500);
    response.end();
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));

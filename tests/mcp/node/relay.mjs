// Stands in front of the endpoint for clients that cannot send a credential or choose a protocol version:
//   node relay.mjs TARGET_URL API_KEY [VERSION]
// adds the key to every request, and asks for VERSION in `initialize`. Prints its port.
import http from "node:http";

const [target, key, version] = process.argv.slice(2);
const { hostname, port, pathname } = new URL(target);

const server = http.createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  let body = Buffer.concat(chunks).toString();
  if (version && body.includes('"initialize"'))
    body = body.replace(/"protocolVersion":"[^"]*"/, `"protocolVersion":"${version}"`);
  const headers = { ...request.headers, "x-ag-api-key": key, "content-length": Buffer.byteLength(body) };
  const onward = http.request({ hostname, port, path: pathname, method: request.method, headers }, (answer) => {
    response.writeHead(answer.statusCode, answer.headers);
    response.flushHeaders();
    answer.pipe(response);
  });
  onward.on("error", () => response.destroy());
  response.on("close", () => onward.destroy());
  onward.end(body);
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));

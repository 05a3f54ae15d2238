// everything.mjs URL : a client of the TypeScript SDK v1 against server-everything, or a gateway before it.
//
// Initializes, lists the tools, calls echo and ends its session. Exit 0: all went well. Exit 1: the rest.
import { require } from './packages.mjs';

const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');

function assert(condition, note) {
  if (!condition) throw new Error(typeof note === 'string' ? note : JSON.stringify(note));
}

const client = new Client({ name: 'everything', version: '1' });
const transport = new StreamableHTTPClientTransport(new URL(process.argv[2]));
await client.connect(transport);
assert(transport.sessionId, 'no session');
const names = (await client.listTools()).tools.map(tool => tool.name);
assert(names.includes('echo'), names);
const result = await client.callTool({ name: 'echo', arguments: { message: 'zażółć 🙂' } });
assert(result.content[0].text === 'Echo: zażółć 🙂', result);
await transport.terminateSession();
await client.close();
console.log(`${client.getServerVersion().name}: ${names.length} tools, echo answered`);

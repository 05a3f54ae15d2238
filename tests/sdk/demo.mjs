// demo.mjs 1|2 MODE URL [loop] : a TypeScript SDK client (1: @modelcontextprotocol/sdk, 2: /client) uses the demo's tools.
//
// MODE is legacy, or a revision that generation 2 pins. Connects, lists, calls echo, add, countdown with progress,
// ask_name with elicitation and fail. With loop it repeats one call until it is told to stop, and then makes another. Exit 0: all went well. Exit 1: the rest.
import { require } from './packages.mjs';

const [generation, mode, url, task] = process.argv.slice(2);
const COUNTDOWN = { steps: 3, delay_ms: 50 };

function assert(condition, note) {
  if (!condition) throw new Error(typeof note === 'string' ? note : JSON.stringify(note));
}

const onElicit = async () => ({ action: 'accept', content: { name: 'Ada' } });

/** Each returns {client, version, call}. */
const connecting = {
  async 1() {
    const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
    const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');
    const { ElicitRequestSchema } = require('@modelcontextprotocol/sdk/types.js');
    const client = new Client({ name: 'ts1', version: '1' }, { capabilities: { elicitation: {} } });
    client.setRequestHandler(ElicitRequestSchema, onElicit);
    const transport = new StreamableHTTPClientTransport(new URL(url));
    await client.connect(transport);
    const call = (name, args = {}, options = {}) => client.callTool({ name, arguments: args }, undefined, options);
    return { client, version: transport.protocolVersion, call };
  },
  async 2() {
    const { Client, StreamableHTTPClientTransport } = require('@modelcontextprotocol/client');
    const versionNegotiation = { mode: mode === 'legacy' ? mode : { pin: mode } };
    const client = new Client({ name: 'ts2', version: '1' },
      { capabilities: { elicitation: { form: {} } }, versionNegotiation });
    client.setRequestHandler('elicitation/create', onElicit);
    await client.connect(new StreamableHTTPClientTransport(new URL(url)));
    const call = (name, args = {}, options = {}) => client.callTool({ name, arguments: args }, options);
    return { client, version: client.getNegotiatedProtocolVersion(), call };
  },
};

const { client, version, call } = await connecting[generation]();
const text = result => result.content[0].text;
if (task === 'loop') {
  const repeat = async left => {
    const result = await call('echo', { text: 'again' });
    return result.isError || left === 0 ? result : repeat(left - 1);
  };
  const stopped = await repeat(20);
  assert(stopped.isError === true && text(stopped).includes('change the arguments'), stopped);
  assert(text(await call('echo', { text: 'another' })) === 'another', 'another call is none of the loop');
  await client.close();
  console.log(`ts${generation} ${version}: ${text(stopped)}`);
  process.exit(0);
}
const names = (await client.listTools()).tools.map(tool => tool.name);
assert(['echo', 'add', 'countdown', 'ask_name', 'fail'].every(name => names.includes(name)), names);
assert(text(await call('echo', { text: 'zażółć 🙂' })) === 'zażółć 🙂', 'echo');
const sum = await call('add', { a: 2, b: 40.5 });
assert(sum.structuredContent.sum === 42.5, sum);
const seen = [];
const counted = await call('countdown', COUNTDOWN, { onprogress: ({ progress }) => void seen.push(progress) });
assert(text(counted) === 'Counted down 3 steps.', counted);
assert(JSON.stringify(seen) === '[1,2,3]', seen);
const greeted = await call('ask_name');
assert(text(greeted) === 'Hello, Ada!', greeted);
assert((await call('fail')).isError === true, 'no isError');
await client.close();
console.log(`ts${generation} ${version}: ${names.length} tools; echo, add, countdown, ask_name, fail answered`);
process.exit(0);

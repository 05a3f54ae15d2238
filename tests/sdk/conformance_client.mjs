// conformance_client.mjs URL : a client for through_client.py, on the TypeScript SDK v2.
//
// It uses whatever the server offers: lists everything, calls every tool, reads every resource, gets every prompt and
// accepts every question. The suite names the version, and sometimes the calls, in the environment.
import { require } from './packages.mjs';

const { Client, StreamableHTTPClientTransport } = require('@modelcontextprotocol/client');

const version = process.env.MCP_CONFORMANCE_PROTOCOL_VERSION ?? '2025-11-25';
const { toolCalls } = JSON.parse(process.env.MCP_CONFORMANCE_CONTEXT ?? '{}');
const mode = version >= '2026' ? { pin: version } : 'legacy';
const capabilities = { sampling: {}, roots: {}, elicitation: { form: { applyDefaults: true } } };

const client = new Client({ name: 'conformance-client', version: '1' }, { capabilities, versionNegotiation: { mode } });
client.setRequestHandler('elicitation/create', async () => ({ action: 'accept', content: {} }));
client.setRequestHandler('roots/list', async () => ({ roots: [] }));
client.setRequestHandler('sampling/createMessage', async () =>
  ({ role: 'assistant', model: 'none', content: { type: 'text', text: 'an answer' } }));

const samples = { string: 'text', number: 1.5, integer: 1, boolean: true, array: [], object: {} };

/** Arguments for the required properties of a tool; a tool that echoes a schema gets another tool's. */
function argumentsFor({ inputSchema }, tools) {
  const { properties = {}, required = [] } = inputSchema;
  if (properties.schema) return { schema: tools.find(tool => tool.inputSchema.$defs)?.inputSchema };
  const sample = ({ type, enum: allowed } = {}) => allowed?.[0] ?? samples[type] ?? 'text';
  return Object.fromEntries(required.map(name => [name, sample(properties[name])]));
}

/** A server need not offer everything, and some tools are there to fail. */
const attempt = async (what, run) => {
  try {
    return await run();
  } catch (error) {
    console.error(`${what}: ${error.message}`);
  }
};

await client.connect(new StreamableHTTPClientTransport(new URL(process.argv.at(-1))));
const listed = await attempt('tools/list', () => client.listTools());
const tools = listed?.tools ?? [];
const calls = toolCalls ?? tools.map(tool => ({ name: tool.name, arguments: argumentsFor(tool, tools) }));
for (const call of calls) await attempt(call.name, () => client.callTool(call));

const { resources: canRead, prompts: canPrompt } = client.getServerCapabilities() ?? {};
const resources = canRead && await attempt('resources/list', () => client.listResources());
for (const { uri } of resources?.resources ?? []) await attempt(uri, () => client.readResource({ uri }));
const prompts = canPrompt && await attempt('prompts/list', () => client.listPrompts());
for (const { name } of prompts?.prompts ?? []) await attempt(name, () => client.getPrompt({ name }));

await client.close();
process.exit(0);

// oauth_ts.mjs URL credentials|code : a client of the TypeScript SDK v2 that knows nothing but a URL.
//
// It finds the authorization server by the challenge and the metadata, and calls a tool. With `credentials` it is the
// client `es` of provider.mjs; with `code` it registers itself, and its user, a browser that agrees to everything,
// comes back with a code. Exit 0: the tool answered. Prints what it asked for on the way.
import { require } from './packages.mjs';

const { Client, ClientCredentialsProvider, StreamableHTTPClientTransport, UnauthorizedError } = require(
  '@modelcontextprotocol/client',
);

const [url, mode] = process.argv.slice(2);
const RETURN = 'http://127.0.0.1:9/back';
const asked = [];

async function watched(input, options) {
  const response = await fetch(input, options);
  asked.push(`${options?.method ?? 'GET'} ${new URL(input.url ?? input).href} ${response.status}`);
  return response;
}

/** A browser with cookies that follows redirects until one leads back to the client. */
async function agree(start) {
  const jar = new Map();
  let at = new URL(start);
  for (let step = 0; step < 12; step += 1) {
    const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join('; ');
    const response = await fetch(at, { redirect: 'manual', headers: cookie ? { cookie } : {} });
    for (const line of response.headers.getSetCookie()) {
      const [name, value] = line.split(';')[0].split('=');
      jar.set(name, value);
    }
    const next = response.headers.get('location');
    if (!next) throw new Error(`the browser is left at ${at}: ${response.status} ${await response.text()}`);
    at = new URL(next, at);
    if (at.href.startsWith(RETURN)) return at.searchParams;
  }
  throw new Error('the browser goes round in circles');
}

/** A public client that registers itself and keeps everything in memory. */
class Registering {
  redirectUrl = RETURN;
  clientMetadata = {
    client_name: 'oauth_ts',
    redirect_uris: [RETURN],
    grant_types: ['authorization_code'],
    response_types: ['code'],
    token_endpoint_auth_method: 'none',
    application_type: 'native',
  };
  clientInformation() {
    return this.registered;
  }
  saveClientInformation(registered) {
    this.registered = registered;
  }
  tokens() {
    return this.held;
  }
  saveTokens(tokens) {
    this.held = tokens;
  }
  codeVerifier() {
    return this.verifier;
  }
  saveCodeVerifier(verifier) {
    this.verifier = verifier;
  }
  async redirectToAuthorization(start) {
    this.back = await agree(start);
  }
}

const authProvider =
  mode === 'code' ? new Registering() : new ClientCredentialsProvider({ clientId: 'es', clientSecret: 'secret' });

async function connect() {
  const client = new Client({ name: 'oauth_ts', version: '1' });
  const transport = new StreamableHTTPClientTransport(new URL(url), { authProvider, fetch: watched });
  try {
    await client.connect(transport);
  } catch (error) {
    if (!(error instanceof UnauthorizedError) || !authProvider.back) throw error;
    await transport.finishAuth(authProvider.back);
    delete authProvider.back;
    return connect();
  }
  return client;
}

const client = await connect();
const { tools } = await client.listTools();
const result = await client.callTool({ name: 'echo', arguments: { text: 'found it' } });
await client.close();
console.log(asked.join('\n'));
if (!JSON.stringify(result).includes('found it')) throw new Error(JSON.stringify(result));
console.log(`${tools.length} tools, echo answered`);

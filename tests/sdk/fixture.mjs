// fixture.mjs PORT [--era dual|legacy|modern] : the server that the official conformance suite tests.
//
// One endpoint, /mcp. It serves 2024-11-05 to 2025-11-25 with sessions, resumable streams and requests from the server,
// and 2026-07-28 without state; --era narrows it to one side, for the tests of bridging. What it offers is in
// fixture_server.mjs.
import { randomUUID } from 'node:crypto';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { buildServer } from './fixture_server.mjs';
import { listen, require } from './packages.mjs';

const { toWebRequest } = require('@modelcontextprotocol/node');
const {
  WebStandardStreamableHTTPServerTransport, createMcpHandler, hostHeaderValidationResponse, isInitializeRequest,
  isLegacyRequest, localhostAllowedHostnames,
} = require('@modelcontextprotocol/server');

/** Legacy sessions by id. */
const sessions = new Map();

/** What all servers share: a modern one is built anew for every request. */
const world = {
  present: { tool: false, prompt: false },
  toggle(kind) {
    const enabled = world.present[kind] = !world.present[kind];
    modern.notify[`${kind}sChanged`]();
    for (const session of sessions.values()) session.dynamic[kind].update({ enabled });
  },
  async updated(uri) {
    modern.notify.resourceUpdated(uri);
    for (const session of sessions.values()) {
      if (session.subscribed.has(uri)) await session.server.server.sendResourceUpdated({ uri });
    }
  },
};

/** The events of one session's streams, so that a client can resume with Last-Event-ID. */
function eventStore() {
  const events = [];
  return {
    async storeEvent(stream, event) {
      const id = `${stream}/${events.length}`;
      events.push({ id, stream, event });
      return id;
    },
    async getStreamIdForEventId(id) {
      return events.find(stored => stored.id === id)?.stream;
    },
    async replayEventsAfter(lastId, { send }) {
      const last = events.findIndex(stored => stored.id === lastId);
      if (last < 0) throw new Error(`no event ${lastId}`);
      const { stream } = events[last];
      for (const stored of events.slice(last + 1)) {
        // the event that opens a stream has an id and no message
        if (stored.stream === stream && stored.event.jsonrpc) await send(stored.id, stored.event);
      }
      return stream;
    },
  };
}

async function openSession(request) {
  const { server, dynamic } = buildServer(world);
  const subscribed = new Set();
  server.server.setRequestHandler('resources/subscribe', async ({ params }) => (subscribed.add(params.uri), {}));
  server.server.setRequestHandler('resources/unsubscribe', async ({ params }) => (subscribed.delete(params.uri), {}));
  const transport = new WebStandardStreamableHTTPServerTransport({
    sessionIdGenerator: randomUUID,
    onsessioninitialized: id => void sessions.set(id, { server, dynamic, subscribed, transport }),
    onsessionclosed: id => void sessions.delete(id),
    eventStore: eventStore(),
    retryInterval: 200,
  });
  await server.connect(transport);
  return transport.handleRequest(request);
}

/** 2024-11-05 to 2025-11-25: a server for each session. */
async function legacy(request) {
  const session = sessions.get(request.headers.get('mcp-session-id'));
  if (session) return session.transport.handleRequest(request);
  const body = await request.clone().json().catch(() => undefined);
  if (request.headers.has('mcp-session-id')) return refuse(404, -32001, 'Session not found', body);
  if (isInitializeRequest(body)) return openSession(request);
  return refuse(400, -32000, 'Bad Request: no session', body);
}

function refuse(status, code, reason, body) {
  return Response.json({ jsonrpc: '2.0', id: body?.id ?? null, error: { code, message: reason } }, { status });
}

/** 2026-07-28: a server for each request. */
const modern = createMcpHandler(() => buildServer(world).server, { legacy: 'reject' });

const eras = {
  dual: async request => (await isLegacyRequest(request)) ? legacy(request) : modern.fetch(request),
  legacy,
  modern: request => modern.fetch(request),
};

const [port = '0', flag, era = 'dual'] = process.argv.slice(2);
if ((flag && flag !== '--era') || !eras[era]) {
  console.error('usage: fixture.mjs PORT [--era dual|legacy|modern]');
  process.exit(2);
}

async function route(request) {
  // Host alone, not Origin: a gateway that rewrites Host and checks neither must not hide behind this server.
  const rejected = hostHeaderValidationResponse(request, localhostAllowedHostnames());
  if (rejected) return rejected;
  if (new URL(request.url).pathname !== '/mcp') return new Response('not found\n', { status: 404 });
  return eras[era](request);
}

/**
 * The SDK's `toNodeHandler` would do, but it keeps the headers of a silent stream back and notices only at the next
 * event that the client has gone: until then, a client that resumes is told 409.
 */
async function serve(incoming, outgoing) {
  const gone = new AbortController();
  outgoing.on('close', () => gone.abort());
  let response;
  try {
    response = await route(await toWebRequest(incoming, undefined, { signal: gone.signal }));
  } catch (error) {
    if (gone.signal.aborted) return;
    response = refuse(error.status ?? 500, -32603, error.message);
  }
  outgoing.writeHead(response.status, Object.fromEntries(response.headers)).flushHeaders();
  if (!response.body) return outgoing.end();
  await pipeline(Readable.fromWeb(response.body), outgoing).catch(() => {});
}

await listen(port, serve);

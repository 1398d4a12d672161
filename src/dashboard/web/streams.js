/** Multiplexes streams over one WebSocket; see the server's `streams`. */
import { ApiError, at } from './api.js';
import { signal } from './dom.js';
/** @import { Handlers } from './types.d.ts' */

const OPENED = 1;
const DATA = 2;

/** Whether the server can be reached. */
export const connected = signal(true);

/** Whether another dashboard listens on the port, which refuses this page's cookie. */
export const refused = signal(false);

/**
 * @typedef {object} Open
 * @property {string} path
 * @property {string | undefined} accept
 * @property {Handlers} handlers
 */

/** @type {Set<() => void>} */
const waiting = new Set();

/**
 * Calls `fn` when the server can be reached again. The returned function cancels it.
 *
 * @param {() => void} fn
 * @returns {() => void}
 */
export function onReconnect(fn) {
  waiting.add(fn);
  return () => waiting.delete(fn);
}

/** @type {Map<number, Open>} */
const open = new Map();
let next = 1;

/** @type {WebSocket | null} */
let socket = null;
let delay = 250;

/**
 * Opens a stream. The returned function closes it.
 *
 * @param {string} target
 * @param {string | undefined} accept
 * @param {Handlers} handlers
 * @returns {() => void}
 */
export function stream(target, accept, handlers) {
  const id = next++;
  const entry = { path: at(target), accept, handlers };
  open.set(id, entry);
  if (socket?.readyState === WebSocket.OPEN) ask(id, entry);
  // Otherwise it is opened when the connection is.
  else if (connected.peek()) connect();
  return () => {
    if (!open.delete(id)) return;
    if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ close: id }));
  };
}

/**
 * @param {number} id
 * @param {Open} entry
 */
function ask(id, entry) {
  socket?.send(JSON.stringify({ open: id, path: entry.path, accept: entry.accept }));
}

/**
 * Connects once the server answers: browsers do not report why they failed to open a
 * WebSocket.
 *
 * @returns {Promise<void>}
 */
async function find() {
  if (socket) return;
  try {
    const answer = await fetch('/rkube/session', { headers: { Accept: 'application/json' } });
    // Another dashboard listens on the port now.
    refused.value = answer.status === 401;
    if (answer.ok) {
      connect();
      return;
    }
  } catch {
    // The server cannot be reached.
  }
  setTimeout(() => void find(), delay);
  delay = Math.min(delay * 2, 5000);
}

function connect() {
  if (socket) return;
  const mine = new WebSocket(`ws://${location.host}/rkube/streams`);
  socket = mine;
  mine.binaryType = 'arraybuffer';
  let owed = 0;
  mine.onopen = () => {
    delay = 250;
    const again = !connected.peek();
    connected.value = true;
    refused.value = false;
    for (const [id, entry] of open) ask(id, entry);
    if (again) for (const fn of [...waiting]) fn();
  };
  mine.onmessage = (/** @type {MessageEvent<ArrayBuffer>} */ event) => {
    const bytes = new Uint8Array(event.data);
    const id = new DataView(event.data).getUint32(1, true);
    const rest = bytes.subarray(5);
    if (bytes[0] === DATA) {
      open.get(id)?.handlers.data(rest);
      owed += rest.length;
      if (owed > 256 << 10) {
        mine.send(JSON.stringify({ ack: owed }));
        owed = 0;
      }
    } else if (bytes[0] === OPENED) {
      open.get(id)?.handlers.opened?.();
    } else {
      const entry = open.get(id);
      open.delete(id);
      const reason = new TextDecoder().decode(rest);
      entry?.handlers.ended(reason ? refusal(reason) : undefined);
    }
  };
  mine.onclose = () => {
    socket = null;
    connected.value = false;
    const broken = [...open.values()];
    open.clear();
    for (const entry of broken) entry.handlers.ended(new ApiError(0, 'the dashboard does not answer; does `rkube dashboard` still run?'));
    // Open streams wait for the server before they are opened again.
    setTimeout(() => void find(), delay);
    delay = Math.min(delay * 2, 5000);
  };
}

/**
 * @param {string} reason
 * @returns {ApiError}
 */
function refusal(reason) {
  const body = reason.slice(4);
  let message = body;
  try {
    message = JSON.parse(body).message ?? body;
  } catch {
    // The message is plain text.
  }
  return new ApiError(Number(reason.slice(0, 3)), message);
}

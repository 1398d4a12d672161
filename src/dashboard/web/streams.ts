/** Many streams over one WebSocket; see the server's `streams`. */
import { ApiError, at } from './api.js';
import { signal } from './dom.js';

const OPENED = 1;
const DATA = 2;

/** Whether the server is there. */
export const connected = signal(true);

export interface Handlers {
  opened?(): void;
  data(bytes: Uint8Array): void;
  /** It has ended; with an error where it was refused or broke. */
  ended(error?: ApiError): void;
}

interface Open {
  path: string;
  accept: string | undefined;
  handlers: Handlers;
}

const open = new Map<number, Open>();
let next = 1;
let socket: WebSocket | null = null;
let delay = 250;

/** Opens a stream; the result closes it. */
export function stream(target: string, accept: string | undefined, handlers: Handlers): () => void {
  const id = next++;
  const entry = { path: at(target), accept, handlers };
  open.set(id, entry);
  if (socket?.readyState === WebSocket.OPEN) ask(id, entry);
  else connect();
  return () => {
    if (!open.delete(id)) return;
    if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ close: id }));
  };
}

function ask(id: number, entry: Open): void {
  socket?.send(JSON.stringify({ open: id, path: entry.path, accept: entry.accept }));
}

function connect(): void {
  if (socket) return;
  const mine = new WebSocket(`ws://${location.host}/rkube/streams`);
  socket = mine;
  mine.binaryType = 'arraybuffer';
  let owed = 0;
  mine.onopen = () => {
    delay = 250;
    connected.value = true;
    for (const [id, entry] of open) ask(id, entry);
  };
  mine.onmessage = (event: MessageEvent<ArrayBuffer>) => {
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
    if (broken.length || open.size) setTimeout(connect, delay);
    delay = Math.min(delay * 2, 10_000);
  };
}

function refusal(reason: string): ApiError {
  const body = reason.slice(4);
  let message = body;
  try {
    message = JSON.parse(body).message ?? body;
  } catch {
    // It is text.
  }
  return new ApiError(Number(reason.slice(0, 3)), message);
}

/** Requests to the dashboard's server and through it to API servers; discovery. */
import { signal } from './dom.js';

export interface Meta {
  name: string;
  namespace?: string;
  uid?: string;
  resourceVersion?: string;
  generation?: number;
  creationTimestamp?: string;
  deletionTimestamp?: string;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  ownerReferences?: Owner[];
  finalizers?: string[];
  managedFields?: unknown;
  generateName?: string;
}

export interface Owner {
  apiVersion: string;
  kind: string;
  name: string;
  uid: string;
  controller?: boolean;
}

/** Objects of any kind: what a view needs of one it narrows itself. */
export type Any = any;

export interface Obj {
  apiVersion?: string;
  kind?: string;
  metadata: Meta;
  spec?: Any;
  status?: Any;
  [field: string]: Any;
}

/** A resource that the API server serves. */
export interface Kind {
  group: string;
  version: string;
  kind: string;
  name: string;
  namespaced: boolean;
  verbs: string[];
  short: string[];
  subresources: string[];
}

export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly body?: Any,
  ) {
    super(message);
  }
}

/** The profile that the page shows. */
export const profile = signal('');

/** The port that the server listens on; another one in the address is a forwarded one. */
export const serverPort = signal(0);

/** The path of something of the present profile. */
export function at(path: string): string {
  return `/c/${encodeURIComponent(profile.peek())}${path}`;
}

export interface Sending {
  method?: string;
  body?: unknown;
  type?: string;
  accept?: string;
  /** What the server warns of. */
  warn?: (text: string) => void;
}

async function send(path: string, { method = 'GET', body, type, accept, warn }: Sending = {}): Promise<Response> {
  const headers: Record<string, string> = { Accept: accept ?? 'application/json' };
  let sent: BodyInit | undefined;
  if (body !== undefined) {
    headers['Content-Type'] = type ?? 'application/json';
    sent = typeof body === 'string' || body instanceof Blob ? body : JSON.stringify(body);
  }
  const init: RequestInit = { method, headers };
  if (sent !== undefined) init.body = sent;
  const response = await fetch(path, init);
  const warning = response.headers.get('Warning');
  if (warning && warn) warn(warning.replace(/^299 \S+ "?|"$/g, ''));
  if (response.ok) return response;
  const text = await response.text();
  let parsed: Any;
  try {
    parsed = JSON.parse(text);
  } catch {
    parsed = undefined;
  }
  throw new ApiError(response.status, parsed?.message ?? text ?? response.statusText, parsed);
}

/** JSON of a path as it stands. */
export async function json(path: string, options?: Sending): Promise<Any> {
  return (await send(path, options)).json();
}

/** JSON of the present profile's API server. */
export const api = (path: string, options?: Sending): Promise<Any> => json(at(path), options);

/** Text of the present profile. */
export async function text(path: string, options?: Sending): Promise<string> {
  return (await send(at(path), { accept: 'text/plain, */*', ...options })).text();
}

/** JSON lines as they come. */
export async function lines(path: string, options: Sending, each: (line: Any) => void): Promise<void> {
  const response = await send(at(path), options);
  const reader = response.body?.getReader();
  if (!reader) return;
  const decoder = new TextDecoder();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    rest += decoder.decode(value, { stream: !done });
    const parts = rest.split('\n');
    rest = parts.pop() ?? '';
    for (const part of parts) if (part.trim()) each(JSON.parse(part));
    if (done) return;
  }
}

const DISCOVERY = 'application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList';

/** Every kind that can be listed, by the preferred version of its group. */
export const kinds = signal<Kind[]>([]);

export async function discover(): Promise<void> {
  const [core, groups] = await Promise.all([
    api('/api', { accept: DISCOVERY }),
    api('/apis', { accept: DISCOVERY }),
  ]);
  const found = new Map<string, Kind>();
  for (const group of [...(core.items ?? []), ...(groups.items ?? [])]) {
    const name: string = group.metadata?.name ?? '';
    for (const version of group.versions ?? []) {
      for (const resource of version.resources ?? []) {
        const key = `${name}/${resource.resource}`;
        // The first version is the preferred one.
        if (found.has(key)) continue;
        found.set(key, {
          group: name,
          version: version.version,
          kind: resource.responseKind?.kind ?? resource.resource,
          name: resource.resource,
          namespaced: resource.scope === 'Namespaced',
          verbs: resource.verbs ?? [],
          short: resource.shortNames ?? [],
          subresources: (resource.subresources ?? []).map((s: Any) => s.subresource),
        });
      }
    }
  }
  kinds.value = [...found.values()];
}

export function findKind(group: string, name: string): Kind | undefined {
  return kinds.value.find((k) => k.group === group && k.name === name);
}

/**
 * The kind as a text that changes only when the kind does: kinds are discovered
 * anew whenever a definition comes, which must not take away what people write.
 */
export const kindKey = (group: string, name: string): string => JSON.stringify(findKind(group, name) ?? null);

/** The kind of an object by its `apiVersion` and `kind`. */
export function kindOf(apiVersion: string, kind: string): Kind | undefined {
  const group = apiVersion.includes('/') ? apiVersion.split('/')[0] : '';
  return kinds.peek().find((k) => k.group === group && k.kind === kind);
}

export const gv = (k: Kind): string => (k.group ? `${k.group}/${k.version}` : k.version);

/** The API path of a kind, of its objects in a namespace, or of one of them. */
export function path(k: Kind, namespace?: string, name?: string, sub?: string): string {
  const parts = [k.group ? `/apis/${k.group}/${k.version}` : `/api/${k.version}`];
  if (namespace && k.namespaced) parts.push('namespaces', encodeURIComponent(namespace));
  parts.push(k.name);
  if (name) parts.push(encodeURIComponent(name));
  if (sub) parts.push(sub);
  return parts.join('/');
}

export const core = (name: string): Kind => need('', name);

export function need(group: string, name: string): Kind {
  const kind = findKind(group, name);
  if (!kind) throw new Error(`the API server does not serve ${name}.${group}`);
  return kind;
}

/** Changes some fields of an object. */
export function merge(k: Kind, o: Obj, patch: unknown, sub?: string): Promise<Any> {
  return api(`${path(k, o.metadata.namespace, o.metadata.name, sub)}?fieldManager=rkube-dashboard`, {
    method: 'PATCH',
    body: patch,
    type: 'application/merge-patch+json',
  });
}

/** A value as field selectors have them: roles may be named with what separates terms. */
export const fieldValue = (value: string): string => value.replace(/[\\,=]/g, '\\$&');

/** An object, if there is one: a missing one is no error in the browser's console. */
export async function find(k: Kind, namespace: string | undefined, name: string): Promise<Obj | undefined> {
  const list = await api(`${path(k, namespace)}?fieldSelector=${encodeURIComponent(`metadata.name=${fieldValue(name)}`)}`);
  const item: Obj | undefined = list.items?.[0];
  return item && { apiVersion: gv(k), kind: k.kind, ...item };
}

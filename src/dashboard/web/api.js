/** Requests to the dashboard's server and through it to API servers; discovery. */
import { signal } from './dom.js';
/** @import { Any, Kind, Obj, Sending, Signal } from './types.d.ts' */

export class ApiError extends Error {
  /** @readonly @type {number} */
  status;
  /** @readonly @type {Any | undefined} */
  body;

  /**
   * @param {number} status
   * @param {string} message
   * @param {Any} [body]
   */
  constructor(status, message, body) {
    super(message);
    this.status = status;
    this.body = body;
  }
}

/** The profile that the page shows. */
export const profile = signal('');

/** The port that the server listens on; another one in the address is a forwarded one. */
export const serverPort = signal(0);

/**
 * The path of something of the present profile.
 *
 * @param {string} path
 * @returns {string}
 */
export function at(path) {
  return `/c/${encodeURIComponent(profile.peek())}${path}`;
}

/**
 * @param {string} path
 * @param {Sending} [options]
 * @returns {Promise<Response>}
 */
async function send(path, { method = 'GET', body, type, accept, warn } = {}) {
  /** @type {Record<string, string>} */
  const headers = { Accept: accept ?? 'application/json' };
  /** @type {BodyInit | undefined} */
  let sent;
  if (body !== undefined) {
    headers['Content-Type'] = type ?? 'application/json';
    sent = typeof body === 'string' || body instanceof Blob ? body : JSON.stringify(body);
  }
  /** @type {RequestInit} */
  const init = { method, headers };
  if (sent !== undefined) init.body = sent;
  const response = await fetch(path, init);
  const warning = response.headers.get('Warning');
  if (warning && warn) warn(warning.replace(/^299 \S+ "?|"$/g, ''));
  if (response.ok) return response;
  const text = await response.text();
  /** @type {Any} */
  let parsed;
  try {
    parsed = JSON.parse(text);
  } catch {
    parsed = undefined;
  }
  throw new ApiError(response.status, parsed?.message ?? text ?? response.statusText, parsed);
}

/**
 * JSON of a path as it stands.
 *
 * @param {string} path
 * @param {Sending} [options]
 * @returns {Promise<Any>}
 */
export async function json(path, options) {
  return (await send(path, options)).json();
}

/**
 * JSON of the present profile's API server.
 *
 * @param {string} path
 * @param {Sending} [options]
 * @returns {Promise<Any>}
 */
export const api = (path, options) => json(at(path), options);

/**
 * Text of the present profile.
 *
 * @param {string} path
 * @param {Sending} [options]
 * @returns {Promise<string>}
 */
export async function text(path, options) {
  return (await send(at(path), { accept: 'text/plain, */*', ...options })).text();
}

/**
 * JSON lines as they come.
 *
 * @param {string} path
 * @param {Sending} options
 * @param {(line: Any) => void} each
 * @returns {Promise<void>}
 */
export async function lines(path, options, each) {
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

/**
 * Every kind that can be listed, by the preferred version of its group.
 *
 * @type {Signal<Kind[]>}
 */
export const kinds = signal([]);

/** @returns {Promise<void>} */
export async function discover() {
  const [core, groups] = await Promise.all([
    api('/api', { accept: DISCOVERY }),
    api('/apis', { accept: DISCOVERY }),
  ]);
  /** @type {Map<string, Kind>} */
  const found = new Map();
  for (const group of [...(core.items ?? []), ...(groups.items ?? [])]) {
    /** @type {string} */
    const name = group.metadata?.name ?? '';
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
          subresources: (resource.subresources ?? []).map((/** @type {Any} */ s) => s.subresource),
        });
      }
    }
  }
  kinds.value = [...found.values()];
}

/**
 * @param {string} group
 * @param {string} name
 * @returns {Kind | undefined}
 */
export function findKind(group, name) {
  return kinds.value.find((k) => k.group === group && k.name === name);
}

/**
 * The kind as a text that changes only when the kind does: kinds are discovered
 * anew whenever a definition comes, which must not take away what people write.
 *
 * @param {string} group
 * @param {string} name
 * @returns {string}
 */
export const kindKey = (group, name) => JSON.stringify(findKind(group, name) ?? null);

/**
 * The kind of an object by its `apiVersion` and `kind`.
 *
 * @param {string} apiVersion
 * @param {string} kind
 * @returns {Kind | undefined}
 */
export function kindOf(apiVersion, kind) {
  const group = apiVersion.includes('/') ? apiVersion.split('/')[0] : '';
  return kinds.peek().find((k) => k.group === group && k.kind === kind);
}

/**
 * @param {Kind} k
 * @returns {string}
 */
export const gv = (k) => (k.group ? `${k.group}/${k.version}` : k.version);

/**
 * The API path of a kind, of its objects in a namespace, or of one of them.
 *
 * @param {Kind} k
 * @param {string} [namespace]
 * @param {string} [name]
 * @param {string} [sub]
 * @returns {string}
 */
export function path(k, namespace, name, sub) {
  const parts = [k.group ? `/apis/${k.group}/${k.version}` : `/api/${k.version}`];
  if (namespace && k.namespaced) parts.push('namespaces', encodeURIComponent(namespace));
  parts.push(k.name);
  if (name) parts.push(encodeURIComponent(name));
  if (sub) parts.push(sub);
  return parts.join('/');
}

/**
 * @param {string} name
 * @returns {Kind}
 */
export const core = (name) => need('', name);

/**
 * @param {string} group
 * @param {string} name
 * @returns {Kind}
 */
export function need(group, name) {
  const kind = findKind(group, name);
  if (!kind) throw new Error(`the API server does not serve ${name}.${group}`);
  return kind;
}

/**
 * Changes some fields of an object.
 *
 * @param {Kind} k
 * @param {Obj} o
 * @param {unknown} patch
 * @param {string} [sub]
 * @returns {Promise<Any>}
 */
export function merge(k, o, patch, sub) {
  return api(`${path(k, o.metadata.namespace, o.metadata.name, sub)}?fieldManager=rkube-dashboard`, {
    method: 'PATCH',
    body: patch,
    type: 'application/merge-patch+json',
  });
}

/**
 * A value as field selectors have them: roles may be named with what separates terms.
 *
 * @param {string} value
 * @returns {string}
 */
export const fieldValue = (value) => value.replace(/[\\,=]/g, '\\$&');

/**
 * An object, if there is one: a missing one is no error in the browser's console.
 *
 * @param {Kind} k
 * @param {string | undefined} namespace
 * @param {string} name
 * @returns {Promise<Obj | undefined>}
 */
export async function find(k, namespace, name) {
  const list = await api(`${path(k, namespace)}?fieldSelector=${encodeURIComponent(`metadata.name=${fieldValue(name)}`)}`);
  /** @type {Obj | undefined} */
  const item = list.items?.[0];
  return item && { apiVersion: gv(k), kind: k.kind, ...item };
}

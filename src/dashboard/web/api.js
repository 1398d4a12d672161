/** Requests to the dashboard's server and, through it, to API servers; discovery. */
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

/** The port that the server listens on. The page's address has another one behind a port-forward. */
export const serverPort = signal(0);

/**
 * Returns the dashboard's path for a path of the current profile's API server.
 *
 * @param {string} path
 * @returns {string}
 */
export function at(path) {
  return `/c/${encodeURIComponent(profile.peek())}${path}`;
}

/**
 * Fetches; repeats what the browser aborted, as it does with all requests when a network
 * interface of the machine appears or disappears.
 *
 * @param {string} path
 * @param {RequestInit} init
 * @returns {Promise<Response>}
 */
async function retried(path, init) {
  for (let delay = 100; delay < 1000; delay *= 2) {
    try {
      return await fetch(path, init);
    } catch {
      await new Promise((done) => setTimeout(done, delay));
    }
  }
  return fetch(path, init);
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
  const response = await (method === 'GET' ? retried(path, init) : fetch(path, init));
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
 * Returns the JSON at a path of the dashboard's server.
 *
 * @param {string} path
 * @param {Sending} [options]
 * @returns {Promise<Any>}
 */
export async function json(path, options) {
  return (await send(path, options)).json();
}

/**
 * Returns the JSON at a path of the current profile's API server.
 *
 * @param {string} path
 * @param {Sending} [options]
 * @returns {Promise<Any>}
 */
export const api = (path, options) => json(at(path), options);

/**
 * Returns the text at a path of the current profile's API server.
 *
 * @param {string} path
 * @param {Sending} [options]
 * @returns {Promise<string>}
 */
export async function text(path, options) {
  return (await send(at(path), { accept: 'text/plain, */*', ...options })).text();
}

/**
 * Calls `each` for every line of JSON as soon as it arrives.
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
 * Every kind that the API server serves, in the preferred version of its group.
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
 * Returns a kind as a text that changes only when the kind does. Kinds are discovered
 * again whenever a custom resource definition changes. Views must not be rebuilt then,
 * which would discard what the user has typed.
 *
 * @param {string} group
 * @param {string} name
 * @returns {string}
 */
export const kindKey = (group, name) => JSON.stringify(findKind(group, name) ?? null);

/**
 * Returns the kind of an object by its `apiVersion` and `kind`.
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
 * Returns the API path of a kind, of its objects in a namespace, or of one object.
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
 * Applies a merge patch to an object.
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
 * Escapes a value for a field selector. Names of roles may contain the separators.
 *
 * @param {string} value
 * @returns {string}
 */
export const fieldValue = (value) => value.replace(/[\\,=]/g, '\\$&');

/**
 * Returns an object, or undefined. It is listed rather than read, because browsers report
 * a response of 404 as an error in their console.
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

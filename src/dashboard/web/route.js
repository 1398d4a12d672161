/** The page's location: `#/PROFILE/VIEW/…?…`. */
import { profile } from './api.js';
import { signal } from './dom.js';
/** @import { Kind, Meta, Route, Signal } from './types.d.ts' */

/** @type {Signal<Route>} */
export const route = signal({ view: '', parts: [], query: new URLSearchParams() });

/**
 * The namespace that lists show; empty for all.
 *
 * @type {Signal<string>}
 */
export const namespace = signal(localStorage.getItem('namespace') ?? '');

/** @param {string} name */
export function setNamespace(name) {
  namespace.value = name;
  localStorage.setItem('namespace', name);
}

export function read() {
  const [path = '', query = ''] = location.hash.replace(/^#\/?/, '').split('?');
  const parts = path.split('/').map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
  const [name, view, ...rest] = parts;
  if (name && name !== profile.peek()) profile.value = name;
  route.value = { view: view || 'overview', parts: rest, query: new URLSearchParams(query) };
}

/**
 * @param {string} view
 * @param {string[]} [parts]
 * @param {Record<string, string>} [query]
 * @returns {string}
 */
export function link(view, parts = [], query) {
  const path = [profile.peek(), view, ...parts].map(encodeURIComponent).join('/');
  const text = query ? new URLSearchParams(query).toString() : '';
  return `#/${path}${text ? `?${text}` : ''}`;
}

/**
 * @param {string} target
 * @param {boolean} [replace]
 */
export function go(target, replace = false) {
  if (replace) {
    history.replaceState(null, '', target);
    read();
  } else {
    location.hash = target;
  }
}

/**
 * @param {Kind} k
 * @returns {string}
 */
const group = (k) => k.group || 'core';

/**
 * Returns the link to the list of a kind.
 *
 * @param {Kind} k
 * @param {Record<string, string>} [query]
 * @returns {string}
 */
export const listLink = (k, query) => link('list', [group(k), k.name], query);

/**
 * Returns the link to the view of an object.
 *
 * @param {Kind} k
 * @param {Meta} meta
 * @param {string} [tab]
 * @returns {string}
 */
export const objectLink = (k, meta, tab) =>
  link('object', [group(k), k.name, meta.namespace ?? '-', meta.name, ...(tab ? [tab] : [])]);

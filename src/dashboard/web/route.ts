/** Where the page is: `#/PROFILE/VIEW/…?…`. */
import { profile, type Kind, type Meta } from './api.js';
import { signal, type Signal } from './dom.js';

export interface Route {
  view: string;
  parts: string[];
  query: URLSearchParams;
}

export const route: Signal<Route> = signal<Route>({ view: '', parts: [], query: new URLSearchParams() });

/** The namespace that lists show; empty for all. */
export const namespace: Signal<string> = signal(localStorage.getItem('namespace') ?? '');

export function setNamespace(name: string): void {
  namespace.value = name;
  localStorage.setItem('namespace', name);
}

export function read(): void {
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

export function link(view: string, parts: string[] = [], query?: Record<string, string>): string {
  const path = [profile.peek(), view, ...parts].map(encodeURIComponent).join('/');
  const text = query ? new URLSearchParams(query).toString() : '';
  return `#/${path}${text ? `?${text}` : ''}`;
}

export function go(target: string, replace = false): void {
  if (replace) {
    history.replaceState(null, '', target);
    read();
  } else {
    location.hash = target;
  }
}

const group = (k: Kind): string => k.group || 'core';

/** The list of a kind. */
export const listLink = (k: Kind, query?: Record<string, string>): string => link('list', [group(k), k.name], query);

/** The page of an object. */
export const objectLink = (k: Kind, meta: Meta, tab?: string): string =>
  link('object', [group(k), k.name, meta.namespace ?? '-', meta.name, ...(tab ? [tab] : [])]);

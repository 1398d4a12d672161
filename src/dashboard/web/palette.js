/** The command palette. */
import { api, kinds, path, core } from './api.js';
import { effect, h, signal } from './dom.js';
import { go, link, listLink, namespace, objectLink, setNamespace } from './route.js';
import { dialog } from './ui.js';
/** @import { Kind, Obj, Signal } from './types.d.ts' */

/**
 * @typedef {object} Entry
 * @property {string} label
 * @property {string} detail
 * @property {() => void} run
 */

/**
 * Returns how well `text` matches; higher is better, null for no match.
 *
 * @param {string} query
 * @param {string} text
 * @returns {number | null}
 */
export function score(query, text) {
  const low = text.toLowerCase();
  const at = low.indexOf(query);
  if (at >= 0) return 100 - at - low.length / 100 + (at === 0 ? 50 : 0);
  let i = 0;
  let gaps = 0;
  for (const char of query) {
    const next = low.indexOf(char, i);
    if (next < 0) return null;
    gaps += next - i;
    i = next + 1;
  }
  return 20 - gaps;
}

let shown = false;

/** @param {Entry[]} extra */
export function palette(extra) {
  if (shown) return;
  shown = true;
  const query = signal('');
  /** @type {Signal<Entry[]>} */
  const objects = signal([]);
  const at = signal(0);
  /** @type {Entry[]} */
  let list = [];

  /** @type {Entry[]} */
  const fixed = [
    { label: 'Overview', detail: 'view', run: () => go(link('overview')) },
    { label: 'Topology', detail: 'view', run: () => go(link('topology')) },
    { label: 'Cluster', detail: 'view', run: () => go(link('cluster')) },
    { label: 'Create from YAML', detail: 'view', run: () => go(link('create')) },
    ...extra,
    ...kinds.peek().filter((k) => k.verbs.includes('list')).map((k) => ({
      label: k.kind,
      detail: [k.name, ...k.short, k.group].filter(Boolean).join(' '),
      run: () => go(listLink(k)),
    })),
  ];

  const WANTED = ['pods', 'services', 'deployments', 'statefulsets', 'daemonsets', 'nodes', 'configmaps', 'ingresses', 'jobs'];
  const load = async () => {
    /** @type {Entry[]} */
    const found = [];
    await Promise.allSettled(
      kinds.peek().filter((k) => WANTED.includes(k.name) && k.verbs.includes('list')).map(async (/** @type {Kind} */ k) => {
        const body = await api(`${path(k, k.namespaced ? namespace.peek() : '')}?limit=300`, { accept: 'application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json' });
        for (const o of /** @type {Obj[]} */ ((body.items ?? []))) {
          found.push({ label: o.metadata.name, detail: `${k.kind}${o.metadata.namespace ? ` in ${o.metadata.namespace}` : ''}`, run: () => go(objectLink(k, o.metadata)) });
          if (k.name === 'pods') found.push({ label: `${o.metadata.name} logs`, detail: `of a pod in ${o.metadata.namespace}`, run: () => go(objectLink(k, o.metadata, 'logs')) });
        }
      }),
    );
    const all = await api(path(core('namespaces'))).catch(() => ({ items: [] }));
    for (const o of /** @type {Obj[]} */ (all.items)) found.push({ label: `Namespace ${o.metadata.name}`, detail: 'show only this one', run: () => setNamespace(o.metadata.name) });
    objects.value = found;
  };
  void load();

  const box = dialog('Commands', (close) => {
    const results = h('ul.results', { role: 'listbox', id: 'results', 'aria-label': 'Results' });
    /** @param {Entry | undefined} entry */
    const take = (entry) => {
      if (!entry) return;
      close();
      entry.run();
    };
    const input = h('input', {
      type: 'text',
      placeholder: 'Go to a kind, an object, an action…',
      role: 'combobox',
      'aria-expanded': 'true',
      'aria-controls': 'results',
      'aria-label': 'Command',
      'aria-activedescendant': () => `result-${at.value}`,
      autofocus: true,
      oninput: (/** @type {Event} */ event) => {
        query.value = /** @type {HTMLInputElement} */ (event.target).value.trim().toLowerCase();
        at.value = 0;
      },
      onkeydown: (/** @type {KeyboardEvent} */ event) => {
        const step = event.key === 'ArrowDown' ? 1 : event.key === 'ArrowUp' ? -1 : 0;
        if (step && list.length) {
          at.value = (at.peek() + step + list.length) % list.length;
          event.preventDefault();
        } else if (event.key === 'Enter') {
          event.preventDefault();
          take(list[at.peek()]);
        }
      },
    });
    effect(() => {
      const wanted = query.value;
      const all = [...fixed, ...objects.value];
      list = wanted
        ? all
            .map((entry) => ({ entry, points: Math.max(score(wanted, entry.label) ?? -1e9, (score(wanted, entry.detail) ?? -1e9) - 30) }))
            .filter((x) => x.points > -100)
            .sort((a, b) => b.points - a.points)
            .slice(0, 40)
            .map((x) => x.entry)
        : all.slice(0, 12);
      results.replaceChildren(
        ...list.map((entry, i) => h('li', { role: 'option', id: `result-${i}`, onclick: () => take(entry) }, h('b', null, entry.label), h('span', null, entry.detail))),
      );
    });
    effect(() => {
      const present = at.value;
      void query.value;
      void objects.value;
      [...results.children].forEach((child, i) => child.setAttribute('aria-selected', String(i === present)));
      results.children[present]?.scrollIntoView({ block: 'nearest' });
    });
    return [input, results];
  });
  box.element.classList.add('palette');
  box.element.addEventListener('close', () => (shown = false));
}

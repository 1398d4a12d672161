/** Parts that the cluster's panes share: commands of rkube, and tables. */
import { lines } from './api.js';
import { h, signal } from './dom.js';
import { dialog } from './ui.js';
/** @import { Any, Child, Signal } from './types.d.ts' */

/**
 * Runs a command of rkube and shows its steps.
 *
 * @param {string} title
 * @param {unknown} body
 * @param {() => void} then
 * @param {string} [target]
 * @param {string} [method]
 */
export function run(title, body, then, target = '/rkube/run', method = 'POST') {
  /** @type {Signal<{ text: string; kind: string; }[]>} */
  const steps = signal([]);
  /** @type {Signal<boolean | null>} */
  const ended = signal(null);
  /**
   * @param {string} line
   * @param {string} kind
   */
  const add = (line, kind) => (steps.value = [...steps.peek(), { text: line, kind }]);
  dialog(title, (close) => [
    h('ol.steps', { 'aria-live': 'polite' }, () => steps.value.map((s) => h(`li.${s.kind}`, null, s.text))),
    () => (ended.value === null ? h('progress', { 'aria-label': 'Under way' }) : null),
    () => (ended.value === null ? null : h('div.buttons', null, h('button.primary', { onclick: close, autofocus: true }, 'Close'))),
  ]);
  const options = { method, body, ...(body instanceof Blob ? { type: 'application/x-tar' } : {}) };
  lines(target, options, (/** @type {Any} */ event) => {
    const kind = String(event.type ?? '').split('.').pop() ?? '';
    if ('exit' in event) {
      ended.value = event.exit === 0;
      if (event.exit !== 0 && !steps.peek().some((s) => s.kind === 'error')) add(event.stderr || `It ended with ${event.exit}`, 'error');
    } else if (event.data?.message) {
      add(`${event.data.message}${event.data.advice ? ` — ${event.data.advice}` : ''}`, kind);
    }
  })
    .catch((/** @type {Error} */ error) => {
      add(error.message, 'error');
      ended.value = false;
    })
    .finally(() => {
      ended.value ??= false;
      then();
    });
}

/**
 * @param {Error} error
 * @returns {Child}
 */
const failed = (error) => h('p.warning', null, error.message);

/**
 * Returns an element with the result of `load`, which can be loaded again.
 *
 * @template T
 * @param {() => Promise<T>} load
 * @param {(value: T, again: () => void) => Child} show
 * @returns {HTMLElement}
 */
export function loaded(load, show) {
  /** @type {Signal<{ value?: T | undefined; error?: Error | undefined; } | null>} */
  const state = signal(null);
  const again = () => {
    load().then(
      (value) => (state.value = { value }),
      (/** @type {Error} */ error) => (state.value = { error }),
    );
  };
  again();
  return h('div.scroll', null, () => {
    const present = state.value;
    if (!present) return h('p.quiet', null, 'Loading…');
    return present.error ? failed(present.error) : show(/** @type {T} */ (present.value), again);
  });
}

/**
 * Returns a table. A column without a title holds buttons.
 *
 * @param {string} label
 * @param {string[]} columns
 * @param {HTMLElement[]} rows
 * @returns {HTMLElement}
 */
export function table(label, columns, rows) {
  return h(
    'table.plain',
    { 'aria-label': label },
    h('thead', null, h('tr', null, columns.map((t) => h('th', { scope: 'col' }, t || h('span.sr', null, 'Actions'))))),
    h('tbody', null, rows),
  );
}

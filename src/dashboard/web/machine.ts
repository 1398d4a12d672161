/** What the cluster's panes share: commands of the machine, tables of what it tells. */
import { lines, type Any } from './api.js';
import { h, signal, type Child } from './dom.js';
import { dialog } from './ui.js';

/** Runs a command of rkube, showing its steps. */
export function run(title: string, body: unknown, then: () => void, target = '/rkube/run', method = 'POST'): void {
  const steps = signal<{ text: string; kind: string }[]>([]);
  const ended = signal<boolean | null>(null);
  const add = (line: string, kind: string) => (steps.value = [...steps.peek(), { text: line, kind }]);
  dialog(title, (close) => [
    h('ol.steps', { 'aria-live': 'polite' }, () => steps.value.map((s) => h(`li.${s.kind}`, null, s.text))),
    () => (ended.value === null ? h('progress', { 'aria-label': 'Under way' }) : null),
    () => (ended.value === null ? null : h('div.buttons', null, h('button.primary', { onclick: close, autofocus: true }, 'Close'))),
  ]);
  const options = { method, body, ...(body instanceof Blob ? { type: 'application/x-tar' } : {}) };
  lines(target, options, (event: Any) => {
    const kind = String(event.type ?? '').split('.').pop() ?? '';
    if ('exit' in event) {
      ended.value = event.exit === 0;
      if (event.exit !== 0 && !steps.peek().some((s) => s.kind === 'error')) add(event.stderr || `It ended with ${event.exit}`, 'error');
    } else if (event.data?.message) {
      add(`${event.data.message}${event.data.advice ? ` — ${event.data.advice}` : ''}`, kind);
    }
  })
    .catch((error: Error) => {
      add(error.message, 'error');
      ended.value = false;
    })
    .finally(() => {
      ended.value ??= false;
      then();
    });
}

const failed = (error: Error): Child => h('p.warning', null, error.message);

/** Something that is asked for, and asked for again. */
export function loaded<T>(load: () => Promise<T>, show: (value: T, again: () => void) => Child): HTMLElement {
  const state = signal<{ value?: T; error?: Error } | null>(null);
  const again = () => {
    load().then(
      (value) => (state.value = { value }),
      (error: Error) => (state.value = { error }),
    );
  };
  again();
  return h('div.scroll', null, () => {
    const present = state.value;
    if (!present) return h('p.quiet', null, 'Loading…');
    return present.error ? failed(present.error) : show(present.value as T, again);
  });
}

/** A plain table; a column without a title is that of the buttons. */
export function table(label: string, columns: string[], rows: HTMLElement[]): HTMLElement {
  return h(
    'table.plain',
    { 'aria-label': label },
    h('thead', null, h('tr', null, columns.map((t) => h('th', { scope: 'col' }, t || h('span.sr', null, 'Actions'))))),
    h('tbody', null, rows),
  );
}

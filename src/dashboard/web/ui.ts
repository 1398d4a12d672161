/** Parts that many views share: dialogs, notes, tabs, badges. */
import { append, effect, h, onDispose, root, signal, type Child, type Signal } from './dom.js';
import { since, tone } from './format.js';
import { icon } from './icons.js';
import type { Phase } from './watch.js';

/** Ticks once a second while somebody looks, for ages. */
export const now: Signal<number> = signal(Date.now());
setInterval(() => {
  if (!document.hidden) now.value = Date.now();
}, 1000);

// There from the start: what is said in a region that comes with it goes unheard.
const notes = h('div.notes', { role: 'status', 'aria-live': 'polite' });
document.body.append(notes);

/** Tells something at the edge of the page; screen readers hear it. */
export function note(text: string, kind: 'good' | 'bad' | 'info' = 'info'): void {
  const close = () => element.remove();
  const element = h(
    `div.note.${kind}`,
    null,
    h('span', null, text),
    h('button.plain', { 'aria-label': 'Dismiss', onclick: close }, icon('close', 12)),
  );
  notes.append(element);
  setTimeout(close, kind === 'bad' ? 12_000 : 5_000);
}

/** Runs something that the user asked for and tells how it ended. */
export async function attempt(done: string, what: () => Promise<unknown>): Promise<boolean> {
  try {
    await what();
    if (done) note(done, 'good');
    return true;
  } catch (error) {
    note((error as Error).message, 'bad');
    return false;
  }
}

/** Once what had the focus is gone, the view has it and not the whole page. */
export function keepFocus(): void {
  setTimeout(() => {
    if (document.activeElement && document.activeElement !== document.body) return;
    document.getElementById('main')?.focus({ preventScroll: true });
  });
}

export interface Dialog {
  element: HTMLDialogElement;
  close(): void;
}

/** Opens a dialog; what `body` builds is taken away when it closes. */
export function dialog(title: string, body: (close: () => void) => Child, wide = false): Dialog {
  const element = document.createElement('dialog');
  if (wide) element.className = 'wide';
  element.setAttribute('aria-labelledby', 'dialogtitle');
  const close = () => element.close();
  const [content, dispose] = root(() =>
    h(
      'div.dialog',
      null,
      h('header', null, h('h2', { id: 'dialogtitle' }, title), h('button.plain', { 'aria-label': 'Close', onclick: close }, icon('close'))),
      h('div.body', null, body(close)),
    ),
  );
  element.append(content);
  element.addEventListener('close', () => {
    dispose();
    element.remove();
    keepFocus();
  });
  element.addEventListener('click', (event) => {
    if (event.target === element) close();
  });
  document.body.append(element);
  element.showModal();
  return { element, close };
}

/** Asks before something is done. */
export function confirm(title: string, text: Child, action: string, danger: boolean, run: () => Promise<unknown>): void {
  dialog(title, (close) => {
    const button = h(
      `button.${danger ? 'danger' : 'primary'}`,
      {
        autofocus: true,
        onclick: async () => {
          // First, so that a dialog that it opens has the focus.
          close();
          await run();
        },
      },
      action,
    );
    return [h('p', null, text), h('div.buttons', null, h('button', { onclick: close }, 'Cancel'), button)];
  });
}

/** Asks for one value; `rules` are attributes of its field. */
export function ask(title: string, label: string, value: string, action: string, run: (value: string) => Promise<unknown>, type = 'text', rules: Record<string, string | number> = {}): void {
  dialog(title, (close) => {
    const input = h('input', { type, value, autofocus: true, min: 0, required: true, ...rules }) as HTMLInputElement;
    const go = async (event: Event) => {
      event.preventDefault();
      if (!input.reportValidity()) return;
      const given = input.value;
      close();
      await run(given);
    };
    return h(
      'form',
      { onsubmit: go },
      h('label', null, label, input),
      h('div.buttons', null, h('button', { type: 'button', onclick: close }, 'Cancel'), h('button.primary', { type: 'submit' }, action)),
    );
  });
}

export function badge(text: string): HTMLElement {
  return h(`span.badge.${tone(text)}`, null, text);
}

export function ageOf(time: string | undefined): HTMLElement {
  return h('time', { datetime: time ?? '', title: time ?? '' }, () => {
    void now.value;
    return since(time);
  });
}

/** How a live list is doing. */
export function live(phase: () => Phase, error: () => string): HTMLElement {
  const words: Record<Phase, string> = { loading: 'Loading', live: 'Live', behind: 'Behind, reconnecting', failed: 'Failed' };
  return h('span', { class: () => `live ${phase()}`, role: 'status', title: error }, h('i', { 'aria-hidden': 'true' }), () => words[phase()]);
}

export function emptyState(title: string, text?: Child, ...actions: Child[]): HTMLElement {
  return h('div.empty', null, h('h2', null, title), text ? h('p', null, text) : null, actions);
}

/** The same as the whole of a page. */
export function emptyPage(title: string, text?: Child, ...actions: Child[]): HTMLElement {
  return h('div.empty', null, h('h1', null, title), text ? h('p', null, text) : null, actions);
}

export interface Tab {
  id: string;
  label: string;
  build(): Child;
}

/** Tabs; `choose` tells which was taken. */
export function tabs(all: Tab[], present: () => string, choose: (id: string) => void, label: string): HTMLElement {
  const list = h('div.tabs', { role: 'tablist', 'aria-label': label });
  const panel = h('div.panel', { role: 'tabpanel', tabindex: -1, id: 'panel' });
  const buttons = all.map((tab) =>
    h(
      'button',
      {
        role: 'tab',
        id: `tab-${tab.id}`,
        'aria-controls': 'panel',
        'aria-selected': () => String(present() === tab.id),
        tabindex: () => (present() === tab.id ? 0 : -1),
        onclick: () => choose(tab.id),
      },
      tab.label,
    ),
  );
  list.addEventListener('keydown', (event) => {
    const step = event.key === 'ArrowRight' ? 1 : event.key === 'ArrowLeft' ? -1 : 0;
    if (!step) return;
    const at = all.findIndex((t) => t.id === present());
    const to = (at + step + all.length) % all.length;
    const tab = all[to];
    if (tab) choose(tab.id);
    buttons[to]?.focus();
    event.preventDefault();
  });
  append(list, buttons);
  effect(() => {
    const tab = all.find((t) => t.id === present()) ?? all[0];
    panel.replaceChildren();
    if (!tab) return;
    panel.setAttribute('aria-labelledby', `tab-${tab.id}`);
    const [content, dispose] = root(() => {
      const box = document.createDocumentFragment();
      append(box, [tab.build()]);
      return box;
    });
    panel.append(content);
    onDispose(dispose);
  });
  return h('div.tabbed', null, list, panel);
}

/** A button with an icon. */
export function action(name: string, label: string, run: () => void, kind = ''): HTMLElement {
  return h(`button${kind ? `.${kind}` : ''}`, { type: 'button', onclick: run }, icon(name, 14), h('span', null, label));
}

/** Saves text as a file. */
export function save(name: string, content: BlobPart): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([content], { type: 'text/plain' }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export function copy(value: string): void {
  void attempt('Copied', () => navigator.clipboard.writeText(value));
}

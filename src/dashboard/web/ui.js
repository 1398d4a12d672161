/** Parts that many views share: dialogs, notes, tabs, badges. */
import { append, effect, h, onDispose, root, signal } from './dom.js';
import { since, tone } from './format.js';
import { icon } from './icons.js';
/** @import { Child, Dialog, Phase, Signal, Tab } from './types.d.ts' */

/**
 * The current time, which changes once per second while the page is visible.
 *
 * @type {Signal<number>}
 */
export const now = signal(Date.now());
setInterval(() => {
  if (!document.hidden) now.value = Date.now();
}, 1000);

// Exists from the start: screen readers do not announce the first text of a new region.
const notes = h('div.notes', { role: 'status', 'aria-live': 'polite' });
document.body.append(notes);

/**
 * Shows a message at the edge of the page; screen readers announce it.
 *
 * @param {string} text
 * @param {'good' | 'bad' | 'info'} [kind]
 */
export function note(text, kind = 'info') {
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

/**
 * Runs an action of the user and shows its result.
 *
 * @param {string} done
 * @param {() => Promise<unknown>} what
 * @returns {Promise<boolean>}
 */
export async function attempt(done, what) {
  try {
    await what();
    if (done) note(done, 'good');
    return true;
  } catch (error) {
    note(/** @type {Error} */ (error).message, 'bad');
    return false;
  }
}

/** Moves the focus to the view when the focused element is gone. */
export function keepFocus() {
  setTimeout(() => {
    if (document.activeElement && document.activeElement !== document.body) return;
    document.getElementById('main')?.focus({ preventScroll: true });
  });
}

/**
 * Opens a dialog. The effects of `body` are disposed of when it closes.
 *
 * @param {string} title
 * @param {(close: () => void) => Child} body
 * @param {boolean} [wide]
 * @returns {Dialog}
 */
export function dialog(title, body, wide = false) {
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

/**
 * Asks for a confirmation.
 *
 * @param {string} title
 * @param {Child} text
 * @param {string} action
 * @param {boolean} danger
 * @param {() => Promise<unknown>} run
 */
export function confirm(title, text, action, danger, run) {
  dialog(title, (close) => {
    const button = h(
      `button.${danger ? 'danger' : 'primary'}`,
      {
        autofocus: true,
        onclick: async () => {
          // Closes first, so that a dialog that the action opens has the focus.
          close();
          await run();
        },
      },
      action,
    );
    return [h('p', null, text), h('div.buttons', null, h('button', { onclick: close }, 'Cancel'), button)];
  });
}

/**
 * Asks for a value. `rules` are attributes of its field.
 *
 * @param {string} title
 * @param {string} label
 * @param {string} value
 * @param {string} action
 * @param {(value: string) => Promise<unknown>} run
 * @param {string} [type]
 * @param {Record<string, string | number>} [rules]
 */
export function ask(title, label, value, action, run, type = 'text', rules = {}) {
  dialog(title, (close) => {
    const input = /** @type {HTMLInputElement} */ (h('input', { type, value, autofocus: true, min: 0, required: true, ...rules }));
    /** @param {Event} event */
    const go = async (event) => {
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

/**
 * @param {string} text
 * @returns {HTMLElement}
 */
export function badge(text) {
  return h(`span.badge.${tone(text)}`, null, text);
}

/**
 * @param {string | undefined} time
 * @returns {HTMLElement}
 */
export function ageOf(time) {
  return h('time', { datetime: time ?? '', title: time ?? '' }, () => {
    void now.value;
    return since(time);
  });
}

/**
 * Returns the state of a live list.
 *
 * @param {() => Phase} phase
 * @param {() => string} error
 * @returns {HTMLElement}
 */
export function live(phase, error) {
  /** @type {Record<Phase, string>} */
  const words = { loading: 'Loading', live: 'Live', behind: 'Behind, reconnecting', failed: 'Failed' };
  return h('span', { class: () => `live ${phase()}`, role: 'status', title: error }, h('i', { 'aria-hidden': 'true' }), () => words[phase()]);
}

/**
 * @param {string} title
 * @param {Child} [text]
 * @param {...Child} actions
 * @returns {HTMLElement}
 */
export function emptyState(title, text, ...actions) {
  return h('div.empty', null, h('h2', null, title), text ? h('p', null, text) : null, actions);
}

/**
 * Returns an empty state that fills the page.
 *
 * @param {string} title
 * @param {Child} [text]
 * @param {...Child} actions
 * @returns {HTMLElement}
 */
export function emptyPage(title, text, ...actions) {
  return h('div.empty', null, h('h1', null, title), text ? h('p', null, text) : null, actions);
}

/**
 * Returns tabs. `choose` is called with the selected one.
 *
 * @param {Tab[]} all
 * @param {() => string} present
 * @param {(id: string) => void} choose
 * @param {string} label
 * @returns {HTMLElement}
 */
export function tabs(all, present, choose, label) {
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

/**
 * Returns a button with an icon.
 *
 * @param {string} name
 * @param {string} label
 * @param {() => void} run
 * @param {string} [kind]
 * @returns {HTMLElement}
 */
export function action(name, label, run, kind = '') {
  return h(`button${kind ? `.${kind}` : ''}`, { type: 'button', onclick: run }, icon(name, 14), h('span', null, label));
}

/**
 * Saves text as a file.
 *
 * @param {string} name
 * @param {BlobPart} content
 */
export function save(name, content) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([content], { type: 'text/plain' }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** @param {string} value */
export function copy(value) {
  void attempt('Copied', () => navigator.clipboard.writeText(value));
}

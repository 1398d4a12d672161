/** A YAML editor: a text area over highlighted text, with completion. */
import { effect, h, onDispose, signal } from './dom.js';
import { fields, place, values } from './schema.js';
import { tokens } from './yaml.js';
/** @import { Editor } from './types.d.ts' */

/**
 * @typedef {object} Proposal
 * @property {string} name
 * @property {string} detail
 * @property {string} help
 * @property {string} insert
 */

/**
 * @param {string} initial
 * @param {boolean} [readonly]
 * @param {() => void} [changed]
 * @returns {Editor}
 */
export function editor(initial, readonly = false, changed = () => {}) {
  const area = /** @type {HTMLTextAreaElement} */ (h('textarea', {
    spellcheck: 'false',
    autocapitalize: 'off',
    autocomplete: 'off',
    'aria-label': 'YAML',
    wrap: 'off',
    readonly,
    'aria-haspopup': readonly ? null : 'listbox',
  }));
  const paint = h('code', { 'aria-hidden': 'true' });
  const numbers = h('div.numbers', { 'aria-hidden': 'true' });
  const pre = h('pre', { 'aria-hidden': 'true' }, paint);
  const popup = h('ul.complete', { role: 'listbox', hidden: true });
  const help = h('div.completehelp', { hidden: true });
  const pane = h('div.pane', null, pre, area, popup, help);
  const element = h('div.editor', null, numbers, pane);
  const bad = signal(0);

  // Lines whose text does not change keep their elements.
  /** @type {{ text: string; element: HTMLElement }[]} */
  let drawn = [];
  const draw = () => {
    const lines = area.value.split('\n');
    /** @type {typeof drawn} */
    const next = [];
    let head = 0;
    while (head < lines.length && head < drawn.length && drawn[head]?.text === lines[head]) head++;
    let tail = 0;
    while (tail < lines.length - head && tail < drawn.length - head && drawn[drawn.length - 1 - tail]?.text === lines[lines.length - 1 - tail]) tail++;
    for (let i = head; i < drawn.length - tail; i++) drawn[i]?.element.remove();
    const anchor = drawn[drawn.length - tail]?.element ?? null;
    const fresh = lines.slice(head, lines.length - tail).map((text) => {
      const line = h('div', null, tokens(text).map((t) => (t.kind ? h(`span.y-${t.kind}`, null, t.text) : t.text)));
      line.append('\n');
      paint.insertBefore(line, anchor);
      return { text, element: line };
    });
    next.push(...drawn.slice(0, head), ...fresh, ...drawn.slice(drawn.length - tail));
    drawn = next;
    while (numbers.childElementCount < lines.length) numbers.append(h('span', null, String(numbers.childElementCount + 1)));
    while (numbers.childElementCount > lines.length) numbers.lastElementChild?.remove();
    area.style.height = `${lines.length * 20 + 40}px`;
    area.style.width = `${Math.max(...lines.map((l) => l.length), 20) + 4}ch`;
  };

  /** @type {Proposal[]} */
  let proposals = [];
  let chosen = 0;
  const hide = () => {
    proposals = [];
    popup.hidden = help.hidden = true;
  };
  const show = () => {
    popup.replaceChildren(
      ...proposals.map((p, i) =>
        h(
          'li',
          {
            role: 'option',
            'aria-selected': String(i === chosen),
            onmousedown: (/** @type {Event} */ event) => {
              event.preventDefault();
              chosen = i;
              take();
            },
          },
          h('b', null, p.name),
          h('small', null, p.detail),
        ),
      ),
    );
    popup.hidden = proposals.length === 0;
    const present = proposals[chosen];
    help.hidden = !present?.help;
    help.textContent = present?.help ?? '';
    /** @type {HTMLElement | undefined} */ (popup.children[chosen])?.scrollIntoView({ block: 'nearest' });
    const before = area.value.slice(0, area.selectionStart).split('\n');
    const top = before.length * 20 + 8;
    const left = Math.min((before[before.length - 1] ?? '').length * 7.8 + 8, Math.max(8, pane.scrollLeft + pane.clientWidth - 300));
    popup.style.top = `${top}px`;
    popup.style.left = `${left}px`;
    help.style.top = `${top}px`;
    help.style.left = `${left + 262}px`;
  };
  /**
   * @param {string} text
   * @param {number} [remove]
   */
  const insert = (text, remove = 0) => {
    area.setRangeText(text, area.selectionStart - remove, area.selectionEnd, 'end');
    area.dispatchEvent(new InputEvent('input'));
  };
  const take = () => {
    const proposal = proposals[chosen];
    if (!proposal) return;
    const typed = place(area.value, area.selectionStart).typed;
    hide();
    area.setRangeText(proposal.insert, area.selectionStart - typed.length, area.selectionEnd, 'end');
    draw();
    changed();
    hide();
  };

  let asked = 0;
  /** @param {boolean} always */
  const complete = async (always) => {
    const mine = ++asked;
    const text = area.value;
    // Completion looks at the document that contains the cursor.
    const start = text.lastIndexOf('\n---', area.selectionStart - 1) + 1;
    const after = text.indexOf('\n---', area.selectionStart);
    const part = text.slice(start, after < 0 ? undefined : after);
    const apiVersion = /^apiVersion:\s*["']?([^\s"'#]+)/m.exec(part)?.[1];
    const kind = /^kind:\s*["']?([^\s"'#]+)/m.exec(part)?.[1];
    if (!apiVersion || !kind) return hide();
    const here = place(part, area.selectionStart - start);
    if (!always && !here.typed) return hide();
    try {
      /** @type {Proposal[]} */
      const found = here.key
        ? (await values(apiVersion, kind, [...here.path, here.key])).map((v) => ({ name: v, detail: '', help: '', insert: v }))
        : (await fields(apiVersion, kind, here.path))
            .filter((f) => !here.beside.includes(f.name))
            .map((f) => ({
              name: f.name,
              detail: f.required ? `${f.type}, required` : f.type,
              help: f.description,
              insert: /^(object|\[\])/.test(f.type) ? `${f.name}:` : `${f.name}: `,
            }));
      if (mine !== asked) return;
      const typed = here.typed.toLowerCase();
      proposals = found.filter((p) => p.name.toLowerCase().startsWith(typed)).slice(0, 60);
      if (proposals.length === 1 && proposals[0]?.name === here.typed) proposals = [];
      chosen = 0;
      if (proposals.length) show();
      else hide();
    } catch {
      hide();
    }
  };

  if (!readonly) {
    area.addEventListener('input', (event) => {
      bad.value = 0;
      draw();
      changed();
      if (/** @type {InputEvent} */ (event).inputType === 'insertText') void complete(false);
      else hide();
    });
    area.addEventListener('blur', hide);
    area.addEventListener('keydown', (event) => {
      if (!popup.hidden) {
        if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
          chosen = (chosen + (event.key === 'ArrowDown' ? 1 : -1) + proposals.length) % proposals.length;
          show();
          event.preventDefault();
          return;
        }
        if (event.key === 'Enter' || event.key === 'Tab') {
          take();
          event.preventDefault();
          return;
        }
        if (event.key === 'Escape') {
          hide();
          event.preventDefault();
          event.stopPropagation();
          return;
        }
      }
      if (event.key === ' ' && event.ctrlKey) {
        event.preventDefault();
        void complete(true);
      } else if (event.key === 'Enter' && !event.ctrlKey && !event.metaKey) {
        const line = area.value.slice(0, area.selectionStart).split('\n').pop() ?? '';
        const indent = /^[ ]*/.exec(line)?.[0] ?? '';
        event.preventDefault();
        insert(`\n${indent}${/:\s*$/.test(line) ? '  ' : ''}`);
      }
    });
  }
  area.value = initial;
  draw();
  effect(() => {
    const line = bad.value;
    numbers.querySelector('.bad')?.classList.remove('bad');
    if (line) numbers.children[line - 1]?.classList.add('bad');
  });
  onDispose(() => (asked = -1));
  return {
    element,
    text: () => area.value,
    replace(text) {
      area.value = text;
      draw();
    },
    mark(line) {
      bad.value = line;
      numbers.children[line - 1]?.scrollIntoView({ block: 'center' });
    },
  };
}

/** A terminal for the API server's exec and the dashboard's node shell. */
import { at, core, path } from './api.js';
import { effect, h, onDispose, perFrame, signal, untracked } from './dom.js';
import { containersOf } from './logs.js';
import { action } from './ui.js';
import { BOLD, colour, DIM, INVERSE, ITALIC, STRIKE, UNDERLINE } from './vt-style.js';
import { Screen } from './vt.js';
/** @import { Any, Cell, Obj, Signal } from './types.d.ts' */

/** @type {Record<string, string>} */
const KEYS = {
  Enter: '\r', Backspace: '\u007f', Tab: '\t', Escape: '\u001b',
  Delete: '\u001b[3~', Insert: '\u001b[2~', PageUp: '\u001b[5~', PageDown: '\u001b[6~',
  F1: '\u001bOP', F2: '\u001bOQ', F3: '\u001bOR', F4: '\u001bOS', F5: '\u001b[15~', F6: '\u001b[17~',
  F7: '\u001b[18~', F8: '\u001b[19~', F9: '\u001b[20~', F10: '\u001b[21~', F11: '\u001b[23~', F12: '\u001b[24~',
};

/** @type {Record<string, string>} */
const ARROWS = { ArrowUp: 'A', ArrowDown: 'B', ArrowRight: 'C', ArrowLeft: 'D', Home: 'H', End: 'F' };

/**
 * Returns the bytes that a key sends, or null for keys that the browser handles.
 *
 * @param {KeyboardEvent} event
 * @param {boolean} application
 * @returns {string | null}
 */
export function keyBytes(event, application) {
  const { key } = event;
  const arrow = ARROWS[key];
  if (arrow) {
    const modifiers = 1 + (event.shiftKey ? 1 : 0) + (event.altKey ? 2 : 0) + (event.ctrlKey ? 4 : 0);
    if (modifiers > 1) return `\u001b[1;${modifiers}${arrow}`;
    return `\u001b${application ? 'O' : '['}${arrow}`;
  }
  if (key === 'Tab' && event.shiftKey) return '\u001b[Z';
  const named = KEYS[key];
  if (named) return event.altKey ? `\u001b${named}` : named;
  if (key.length !== 1 || event.metaKey) return null;
  if (event.ctrlKey && !event.altKey) {
    if (event.shiftKey && /^[cv]$/i.test(key)) return null;
    const code = key.toUpperCase().charCodeAt(0);
    if (key === ' ') return '\u0000';
    if (code >= 0x40 && code <= 0x5f) return String.fromCharCode(code & 0x1f);
    return null;
  }
  if (event.altKey && !event.ctrlKey) return `\u001b${key}`;
  // Plain characters arrive as input events, which support compositions and phones.
  return null;
}

/**
 * Returns a terminal on a WebSocket with the channel protocol of Kubernetes.
 *
 * @param {string} url
 * @param {string} label
 * @returns {HTMLElement}
 */
export function terminal(url, label) {
  const screen = new Screen(80, 24);
  /** @type {Signal<"open" | "connecting" | "closed">} */
  const state = signal('connecting');
  const ending = signal('');
  const lines = h('div.termlines', { 'aria-hidden': 'true' });
  const input = /** @type {HTMLTextAreaElement} */ (h('textarea.terminput', {
    'aria-label': label,
    'aria-describedby': 'leave',
    autocapitalize: 'off',
    autocomplete: 'off',
    spellcheck: 'false',
    rows: 1,
  }));
  const probe = h('span.probe', { 'aria-hidden': 'true' }, 'MMMMMMMMMM');
  const heard = h('div.sr', { 'aria-live': 'polite' });
  const box = h('div.terminal', { onclick: () => input.focus() }, probe, lines, input, heard);

  /** @type {WebSocket | null} */
  let socket = null;
  const encoder = new TextEncoder();
  /**
   * @param {number} channel
   * @param {string} data
   */
  const send = (channel, data) => {
    if (socket?.readyState !== WebSocket.OPEN) return;
    const body = encoder.encode(data);
    const message = new Uint8Array(body.length + 1);
    message[0] = channel;
    message.set(body, 1);
    socket.send(message);
  };
  screen.reply = (text) => send(0, text);

  /**
   * @param {Cell[]} cells
   * @param {number} cursor
   * @returns {HTMLElement}
   */
  const drawRow = (cells, cursor) => {
    const row = h('div');
    let run = '';
    let style = cells[0]?.style;
    let special = false;
    const end = () => {
      if (!run) return;
      const plain = !special && style && style.fg === -1 && style.bg === -1 && !style.flags;
      if (plain || !style) row.append(run);
      else {
        const span = document.createElement('span');
        span.textContent = run;
        let [fg, bg] = [colour(typeof style.fg === 'number' && style.fg >= 0 && style.fg < 8 && style.flags & BOLD ? style.fg + 8 : style.fg), colour(style.bg)];
        if (style.flags & INVERSE) [fg, bg] = [bg ?? 'var(--term-bg)', fg ?? 'var(--term-fg)'];
        if (fg) span.style.color = fg;
        if (bg) span.style.backgroundColor = bg;
        if (style.flags & BOLD) span.style.fontWeight = '600';
        if (style.flags & DIM) span.style.opacity = '0.6';
        if (style.flags & ITALIC) span.style.fontStyle = 'italic';
        const decoration = [style.flags & UNDERLINE ? 'underline' : '', style.flags & STRIKE ? 'line-through' : ''].join(' ').trim();
        if (decoration) span.style.textDecoration = decoration;
        if (special) span.className = 'cursor';
        row.append(span);
      }
      run = '';
    };
    cells.forEach((cell, i) => {
      const here = i === cursor;
      if (cell.style !== style || here || special) {
        end();
        style = cell.style;
        special = here;
      }
      run += cell.text;
    });
    end();
    return row;
  };

  let fromHistory = -1;
  let trims = 0;
  const paint = () => {
    const atBottom = box.scrollTop + box.clientHeight >= box.scrollHeight - 40;
    const past = screen.alternate ? [] : screen.history;
    const first = past.length;
    if (trims !== screen.trims) {
      trims = screen.trims;
      fromHistory = -1;
    }
    // Lines of the history do not change: only new ones are drawn.
    if (fromHistory !== first || lines.childElementCount < first) {
      if (fromHistory >= 0 && first > fromHistory && lines.childElementCount >= fromHistory) {
        while (lines.childElementCount > fromHistory) lines.lastElementChild?.remove();
        for (let i = fromHistory; i < first; i++) lines.append(drawRow(/** @type {Cell[]} */ (past[i]), -1));
      } else {
        lines.replaceChildren(...past.map((cells) => drawRow(cells, -1)));
      }
      fromHistory = first;
    }
    while (lines.childElementCount > first) lines.lastElementChild?.remove();
    screen.rows.forEach((cells, i) => lines.append(drawRow(cells, i === screen.row && screen.cursorShown ? screen.column : -1)));
    if (atBottom) box.scrollTop = box.scrollHeight;
  };
  const soon = perFrame(paint);

  const fit = () => {
    const cell = probe.getBoundingClientRect();
    if (!cell.width || !box.clientWidth) return;
    const columns = Math.max(20, Math.floor((box.clientWidth - 20) / (cell.width / 10)));
    const rows = Math.max(5, Math.floor((box.clientHeight - 16) / 17));
    if (columns !== screen.columns || rows !== screen.height) screen.resize(columns, rows);
    send(4, JSON.stringify({ Width: columns, Height: rows }));
    soon();
  };

  const connect = () => {
    state.value = 'connecting';
    ending.value = '';
    const mine = new WebSocket(`ws://${location.host}${url}`, 'v5.channel.k8s.io');
    socket = mine;
    mine.binaryType = 'arraybuffer';
    const decoder = new TextDecoder();
    mine.onopen = () => {
      state.value = 'open';
      fit();
      input.focus({ preventScroll: true });
    };
    mine.onmessage = (/** @type {MessageEvent<ArrayBuffer>} */ event) => {
      const bytes = new Uint8Array(event.data);
      const body = bytes.subarray(1);
      if (bytes[0] === 1 || bytes[0] === 2) {
        const text = decoder.decode(body, { stream: true });
        screen.write(text);
        heard.textContent = text.replace(/\u001b\[[0-?]*[ -/]*[@-~]/g, '').slice(-200);
        soon();
      } else if (bytes[0] === 3) {
        try {
          /** @type {Any} */
          const status = JSON.parse(new TextDecoder().decode(body));
          if (status.status !== 'Success') ending.value = status.message ?? '';
        } catch {
          // An empty status means success.
        }
      }
    };
    mine.onclose = () => {
      if (socket === mine) state.value = 'closed';
    };
  };

  input.addEventListener('keydown', (event) => {
    if (event.isComposing) return;
    // The terminal takes the Tab key; another one must leave it.
    if (event.key === 'F6' && event.shiftKey) {
      event.preventDefault();
      /** @type {HTMLElement | null} */ (document.querySelector('main [role="tab"][aria-selected="true"]'))?.focus();
      return;
    }
    const bytes = keyBytes(event, screen.application);
    if (bytes === null) return;
    event.preventDefault();
    event.stopPropagation();
    send(0, bytes);
  });
  input.addEventListener('input', (event) => {
    if (/** @type {InputEvent} */ (event).isComposing) return;
    send(0, input.value);
    input.value = '';
  });
  input.addEventListener('compositionend', () => {
    send(0, input.value);
    input.value = '';
  });
  input.addEventListener('paste', (event) => {
    const text = (event.clipboardData?.getData('text') ?? '').replace(/\r?\n/g, '\r');
    event.preventDefault();
    // Pasted text must not contain the end of the bracket.
    send(0, screen.brackets ? `\u001b[200~${text.replaceAll('\u001b', '')}\u001b[201~` : text);
  });
  const resize = new ResizeObserver(fit);
  resize.observe(box);
  connect();
  onDispose(() => {
    resize.disconnect();
    const mine = socket;
    socket = null;
    // Browsers report an error when a WebSocket is closed while it connects.
    if (mine?.readyState === WebSocket.CONNECTING) mine.onopen = () => mine.close();
    else mine?.close();
  });
  return h(
    'div.fill.column',
    null,
    () =>
      state.value === 'closed'
        ? h('p.warning', { role: 'status' }, `The session has ended${ending.value ? `: ${ending.value}` : ''}. `, action('restart', 'Connect again', connect))
        : null,
    box,
    h('p.hint', { id: 'leave' }, h('kbd', null, 'Shift'), ' ', h('kbd', null, 'F6'), ' leaves the terminal'),
  );
}

/**
 * Returns a terminal in one of a pod's containers.
 *
 * @param {() => Obj} pod
 * @returns {HTMLElement}
 */
export function execPane(pod) {
  const first = pod();
  const containers = containersOf(first).filter((c) => !(first.spec?.initContainers ?? []).some((/** @type {Any} */ i) => i.name === c && i.restartPolicy !== 'Always'));
  const container = signal(containers[0] ?? '');
  const command = signal('');
  const box = h('div.fill');
  effect(() => {
    const words = command.value.trim()
      ? command.value.trim().split(/\s+/)
      : ['sh', '-c', 'TERM=xterm-256color; export TERM; if command -v bash >/dev/null 2>&1; then exec bash; else exec sh; fi'];
    const query = new URLSearchParams({ container: container.value, stdin: 'true', stdout: 'true', tty: 'true' });
    for (const word of words) query.append('command', word);
    const url = at(`${path(core('pods'), first.metadata.namespace, first.metadata.name, 'exec')}?${query}`);
    box.replaceChildren(untracked(() => terminal(url, `Terminal of ${first.metadata.name}`)));
  });
  return h(
    'div.fill.column',
    null,
    h(
      'div.bar.tools',
      null,
      h('select', { 'aria-label': 'Container', onchange: (/** @type {Event} */ e) => (container.value = /** @type {HTMLSelectElement} */ (e.target).value) }, containers.map((c) => h('option', { value: c }, c))),
      h('input', {
        placeholder: 'bash or sh; another command: Enter',
        'aria-label': 'Command',
        spellcheck: 'false',
        onchange: (/** @type {Event} */ e) => (command.value = /** @type {HTMLInputElement} */ (e.target).value),
      }),
    ),
    box,
  );
}

/**
 * Returns a shell on a node.
 *
 * @param {string} node
 * @returns {HTMLElement}
 */
export const shellPane = (node) => terminal(at(`/rkube/shell?node=${encodeURIComponent(node)}`), `Shell on ${node}`);

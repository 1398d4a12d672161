/** Container logs: live, with search, of all containers or of previous instances. */
import { core, path, text } from './api.js';
import { effect, h, onDispose, perFrame, signal, untracked } from './dom.js';
import { plural } from './format.js';
import { stream } from './streams.js';
import { attempt, live, save } from './ui.js';
/** @import { Any, Obj, Phase, Signal } from './types.d.ts' */

const LINE = 18;

/** Maximum number of lines in the view; the download has all of them. */
const KEPT = 50_000;
const TAIL = 2000;

/**
 * @typedef {object} LogLine
 * @property {string} time
 * @property {number} source
 * @property {string} text
 */

/** Escape sequences, such as colors, which the view does not interpret. */
const ESCAPES = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[@-_])/g;

/**
 * @param {Obj} pod
 * @returns {string[]}
 */
export function containersOf(pod) {
  /** @param {Any[] | undefined} list */
  const names = (list) => (list ?? []).map((c) => /** @type {string} */ (c.name));
  return [...names(pod.spec?.containers), ...names(pod.spec?.initContainers), ...names(pod.spec?.ephemeralContainers)];
}

/**
 * @param {() => Obj} pod
 * @returns {HTMLElement}
 */
export function logsPane(pod) {
  const first = pod();
  const { namespace, name } = first.metadata;
  const containers = containersOf(first);
  /** @type {Signal<string>} */
  const wanted = signal(containers.length === 1 ? (containers[0] ?? '') : '*');
  const previous = signal(false);
  const follow = signal(true);
  const times = signal(false);
  const search = signal('');
  /** @type {Signal<Phase>} */
  const phase = signal('loading');
  const problem = signal('');
  const total = signal(0);

  /** @type {LogLine[]} */
  let lines = [];
  /** @type {number[] | null} */
  let found = null;
  let at = -1;
  let width = 0;

  const content = h('div.loglines');
  const spacer = h('div.spacer', null, content);
  const scroller = h('div.log', { tabindex: 0, role: 'log', 'aria-label': `Log of ${name}`, 'aria-live': 'off' }, spacer);
  const matches = h('span.count', { role: 'status' });

  /** @returns {LogLine[] | null} */
  const visible = () => (found ? null : lines);
  const count = () => (found ? found.length : lines.length);

  const narrow = () => {
    const query = search.peek().toLowerCase();
    if (!query) found = null;
    else {
      found = [];
      lines.forEach((line, i) => line.text.toLowerCase().includes(query) && found?.push(i));
    }
    at = -1;
    matches.textContent = found ? plural(found.length, 'line') : '';
  };

  /**
   * @param {LogLine} entry
   * @returns {HTMLElement}
   */
  const line = (entry) => {
    const element = h('div.logline');
    if (times.peek()) element.append(h('time', null, entry.time.slice(0, 23).replace('T', ' ')));
    if (wanted.peek() === '*') element.append(h(`b.source.s${entry.source % 6}`, null, containers[entry.source] ?? ''));
    const query = search.peek();
    if (!query) element.append(entry.text);
    else {
      const low = entry.text.toLowerCase();
      const wantedText = query.toLowerCase();
      let from = 0;
      for (let i = low.indexOf(wantedText); i >= 0; i = low.indexOf(wantedText, from)) {
        element.append(entry.text.slice(from, i), h('mark', null, entry.text.slice(i, i + query.length)));
        from = i + query.length;
      }
      element.append(entry.text.slice(from));
    }
    return element;
  };

  const paint = () => {
    const n = count();
    spacer.style.height = `${n * LINE}px`;
    spacer.style.minWidth = `${width + 40}ch`;
    if (follow.peek() && !search.peek()) scroller.scrollTop = n * LINE;
    const top = Math.max(0, Math.floor(scroller.scrollTop / LINE) - 10);
    const bottom = Math.min(n, top + Math.ceil(scroller.clientHeight / LINE) + 20);
    content.style.transform = `translateY(${top * LINE}px)`;
    const all = visible();
    /** @type {HTMLElement[]} */
    const drawn = [];
    for (let i = top; i < bottom; i++) {
      const entry = all ? all[i] : lines[found?.[i] ?? -1];
      if (!entry) continue;
      const element = line(entry);
      if (i === at) element.classList.add('hit');
      drawn.push(element);
    }
    content.replaceChildren(...drawn);
    total.value = lines.length;
  };
  const soon = perFrame(paint);

  /**
   * @param {number} source
   * @param {string} raw
   */
  const add = (source, raw) => {
    const space = raw.indexOf(' ');
    const entry = { time: raw.slice(0, space), source, text: raw.slice(space + 1).replace(ESCAPES, '') };
    width = Math.max(width, Math.min(entry.text.length, 4000));
    // Lines of several containers are merged by their times.
    let i = lines.length;
    while (i > 0 && lines.length - i < 500 && /** @type {LogLine} */ (lines[i - 1]).time > entry.time) i--;
    if (i === lines.length) lines.push(entry);
    else lines.splice(i, 0, entry);
    if (lines.length > KEPT + 5000) {
      lines = lines.slice(-KEPT);
      narrow();
    } else if (found) {
      if (i === lines.length - 1) {
        if (entry.text.toLowerCase().includes(search.peek().toLowerCase())) found.push(i);
      } else narrow();
      matches.textContent = plural(found.length, 'line');
    }
  };

  /**
   * @param {string} container
   * @param {Record<string, string>} extra
   */
  const target = (container, extra) =>
    `${path(core('pods'), namespace, name, 'log')}?${new URLSearchParams({ container, timestamps: 'true', ...extra })}`;

  effect(() => {
    const sources = wanted.value === '*' ? containers : [wanted.value];
    const before = previous.value;
    lines = [];
    found = null;
    width = 0;
    phase.value = 'loading';
    problem.value = '';
    let stopped = false;
    /** @type {(() => void)[]} */
    const closers = [];
    for (const container of sources) {
      const source = containers.indexOf(container);
      let delay = 500;
      let last = '';
      const run = () => {
        if (stopped) return;
        const decoder = new TextDecoder();
        let rest = '';
        /** @type {Record<string, string>} */
        const extra = before ? { previous: 'true' } : { follow: 'true' };
        if (last) extra['sinceTime'] = last;
        else extra['tailLines'] = String(TAIL);
        const resumed = last;
        closers.push(
          stream(target(container, extra), undefined, {
            opened: () => {
              phase.value = 'live';
              delay = 500;
            },
            data: (bytes) => {
              rest += decoder.decode(bytes, { stream: true });
              const parts = rest.split('\n');
              rest = parts.pop() ?? '';
              for (const part of parts) {
                const time = part.slice(0, part.indexOf(' '));
                // `sinceTime` has a resolution of one second, so that some lines come again.
                if (resumed && time <= resumed) continue;
                last = time;
                add(source, part);
              }
              soon();
            },
            ended: (error) => {
              if (rest) add(source, rest);
              soon();
              if (stopped || before) {
                if (error) problem.value = error.message;
                phase.value = error ? 'failed' : 'live';
                return;
              }
              if (error) {
                problem.value = error.message;
                phase.value = lines.length ? 'behind' : 'failed';
              }
              // The container may not have started yet, or be restarting.
              setTimeout(run, delay);
              delay = Math.min(delay * 2, 10_000);
            },
          }),
        );
      };
      run();
    }
    onDispose(() => {
      stopped = true;
      closers.forEach((close) => close());
    });
    untracked(soon);
  });
  effect(() => {
    void search.value;
    void times.value;
    void follow.value;
    untracked(() => {
      narrow();
      paint();
    });
  });
  let programmatic = 0;
  scroller.addEventListener('scroll', () => {
    const bottom = scroller.scrollTop + scroller.clientHeight >= scroller.scrollHeight - LINE * 2;
    if (!bottom && scroller.scrollTop < programmatic) follow.value = false;
    programmatic = scroller.scrollTop;
    soon();
  }, { passive: true });
  const resize = new ResizeObserver(soon);
  resize.observe(scroller);
  onDispose(() => resize.disconnect());

  /** @param {number} step */
  const jump = (step) => {
    const n = count();
    if (!found || !n) return;
    at = (at + step + n) % n;
    scroller.scrollTop = Math.max(0, at * LINE - scroller.clientHeight / 2);
    paint();
  };
  const download = () =>
    attempt('', async () => {
      const sources = wanted.peek() === '*' ? containers : [wanted.peek()];
      /** @type {string[]} */
      const parts = [];
      for (const container of sources) {
        const whole = await text(target(container, previous.peek() ? { previous: 'true' } : {}));
        parts.push(sources.length > 1 ? whole.replace(/^(?=.)/gm, `${container} `) : whole);
      }
      save(`${namespace}_${name}.log`, parts.join(''));
    });
  /**
   * @param {string} label
   * @param {{ value: boolean }} target
   */
  const check = (label, target) =>
    h('label.check', null, h('input', { type: 'checkbox', checked: () => target.value, onchange: (/** @type {Event} */ e) => (target.value = /** @type {HTMLInputElement} */ (e.target).checked) }), label);
  return h(
    'div.fill.column',
    null,
    h(
      'div.bar.tools',
      null,
      h(
        'select',
        { 'aria-label': 'Container', onchange: (/** @type {Event} */ e) => (wanted.value = /** @type {HTMLSelectElement} */ (e.target).value) },
        containers.length > 1 ? h('option', { value: '*', selected: true }, 'All containers') : null,
        containers.map((c) => h('option', { value: c }, c)),
      ),
      h('input.search', {
        type: 'search',
        placeholder: 'Search the log',
        'aria-label': 'Search the log',
        'data-search': true,
        oninput: (/** @type {Event} */ e) => (search.value = /** @type {HTMLInputElement} */ (e.target).value),
        onkeydown: (/** @type {KeyboardEvent} */ e) => e.key === 'Enter' && jump(e.shiftKey ? -1 : 1),
      }),
      matches,
      check('Follow', follow),
      check('Times', times),
      check('Previous', previous),
      h('div.spring'),
      h('span.count', null, () => plural(total.value, 'line')),
      live(() => phase.value, () => problem.value),
      h('button', { onclick: () => void download() }, 'Download'),
    ),
    () => (problem.value ? h('p.warning', null, problem.value) : null),
    scroller,
  );
}

/** Container logs: live, searchable, of all containers, of previous ones. */
import { core, path, text, type Any, type Obj } from './api.js';
import { effect, h, onDispose, perFrame, signal, untracked } from './dom.js';
import { plural } from './format.js';
import { stream } from './streams.js';
import { attempt, live, save } from './ui.js';
import type { Phase } from './watch.js';

const LINE = 18;
/** Lines that are kept; older ones are in the download. */
const KEPT = 50_000;
const TAIL = 2000;

interface LogLine {
  time: string;
  source: number;
  text: string;
}

/* Colours and other escapes mean nothing here. */
const ESCAPES = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[@-_])/g;

export function containersOf(pod: Obj): string[] {
  const names = (list: Any[] | undefined) => (list ?? []).map((c) => c.name as string);
  return [...names(pod.spec?.containers), ...names(pod.spec?.initContainers), ...names(pod.spec?.ephemeralContainers)];
}

export function logsPane(pod: () => Obj): HTMLElement {
  const first = pod();
  const { namespace, name } = first.metadata;
  const containers = containersOf(first);
  const wanted = signal<string>(containers.length === 1 ? (containers[0] ?? '') : '*');
  const previous = signal(false);
  const follow = signal(true);
  const times = signal(false);
  const search = signal('');
  const phase = signal<Phase>('loading');
  const problem = signal('');
  const total = signal(0);

  let lines: LogLine[] = [];
  let found: number[] | null = null;
  let at = -1;
  let width = 0;

  const content = h('div.loglines');
  const spacer = h('div.spacer', null, content);
  const scroller = h('div.log', { tabindex: 0, role: 'log', 'aria-label': `Log of ${name}`, 'aria-live': 'off' }, spacer);
  const matches = h('span.count', { role: 'status' });

  const visible = (): LogLine[] | null => (found ? null : lines);
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

  const line = (entry: LogLine): HTMLElement => {
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
    const drawn: HTMLElement[] = [];
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

  const add = (source: number, raw: string) => {
    const space = raw.indexOf(' ');
    const entry = { time: raw.slice(0, space), source, text: raw.slice(space + 1).replace(ESCAPES, '') };
    width = Math.max(width, Math.min(entry.text.length, 4000));
    // Streams of several containers come apart; their times put them together.
    let i = lines.length;
    while (i > 0 && lines.length - i < 500 && (lines[i - 1] as LogLine).time > entry.time) i--;
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

  const target = (container: string, extra: Record<string, string>) =>
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
    const closers: (() => void)[] = [];
    for (const container of sources) {
      const source = containers.indexOf(container);
      let delay = 500;
      let last = '';
      const run = () => {
        if (stopped) return;
        const decoder = new TextDecoder();
        let rest = '';
        const extra: Record<string, string> = before ? { previous: 'true' } : { follow: 'true' };
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
                // `sinceTime` gives whole seconds again.
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
              // The container may be about to start, or to start again.
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

  const jump = (step: number) => {
    const n = count();
    if (!found || !n) return;
    at = (at + step + n) % n;
    scroller.scrollTop = Math.max(0, at * LINE - scroller.clientHeight / 2);
    paint();
  };
  const download = () =>
    attempt('', async () => {
      const sources = wanted.peek() === '*' ? containers : [wanted.peek()];
      const parts: string[] = [];
      for (const container of sources) {
        const whole = await text(target(container, previous.peek() ? { previous: 'true' } : {}));
        parts.push(sources.length > 1 ? whole.replace(/^(?=.)/gm, `${container} `) : whole);
      }
      save(`${namespace}_${name}.log`, parts.join(''));
    });
  const check = (label: string, target: { value: boolean }) =>
    h('label.check', null, h('input', { type: 'checkbox', checked: () => target.value, onchange: (e: Event) => (target.value = (e.target as HTMLInputElement).checked) }), label);
  return h(
    'div.fill.column',
    null,
    h(
      'div.bar.tools',
      null,
      h(
        'select',
        { 'aria-label': 'Container', onchange: (e: Event) => (wanted.value = (e.target as HTMLSelectElement).value) },
        containers.length > 1 ? h('option', { value: '*', selected: true }, 'All containers') : null,
        containers.map((c) => h('option', { value: c }, c)),
      ),
      h('input.search', {
        type: 'search',
        placeholder: 'Search the log',
        'aria-label': 'Search the log',
        'data-search': true,
        oninput: (e: Event) => (search.value = (e.target as HTMLInputElement).value),
        onkeydown: (e: KeyboardEvent) => e.key === 'Enter' && jump(e.shiftKey ? -1 : 1),
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

/** What differs between two texts, line by line. */
import { h } from './dom.js';

export interface Line {
  sign: ' ' | '+' | '-';
  text: string;
}

/** The shortest edit script, by Myers' greedy algorithm. */
export function diff(before: string[], after: string[]): Line[] {
  let head = 0;
  while (head < before.length && head < after.length && before[head] === after[head]) head++;
  let tail = 0;
  while (
    tail < before.length - head &&
    tail < after.length - head &&
    before[before.length - 1 - tail] === after[after.length - 1 - tail]
  ) tail++;
  const a = before.slice(head, before.length - tail);
  const b = after.slice(head, after.length - tail);
  const same = (text: string): Line => ({ sign: ' ', text });
  return [...before.slice(0, head).map(same), ...middle(a, b), ...before.slice(before.length - tail).map(same)];
}

function middle(a: string[], b: string[]): Line[] {
  const max = a.length + b.length;
  if (!max) return [];
  const trail: Map<number, number>[] = [];
  let reach = new Map<number, number>([[1, 0]]);
  const at = (map: Map<number, number>, k: number) => map.get(k) ?? -1;
  for (let d = 0; d <= max; d++) {
    trail.push(new Map(reach));
    for (let k = -d; k <= d; k += 2) {
      let x = k === -d || (k !== d && at(reach, k - 1) < at(reach, k + 1)) ? at(reach, k + 1) : at(reach, k - 1) + 1;
      let y = x - k;
      while (x < a.length && y < b.length && a[x] === b[y]) {
        x++;
        y++;
      }
      reach.set(k, x);
      if (x >= a.length && y >= b.length) return back(a, b, trail, d);
    }
    reach = new Map(reach);
  }
  return [];
}

function back(a: string[], b: string[], trail: Map<number, number>[], length: number): Line[] {
  const out: Line[] = [];
  let [x, y] = [a.length, b.length];
  for (let d = length; d >= 0; d--) {
    const reach = trail[d] as Map<number, number>;
    const at = (k: number) => reach.get(k) ?? -1;
    const k = x - y;
    const from = k === -d || (k !== d && at(k - 1) < at(k + 1)) ? k + 1 : k - 1;
    const px = d === 0 ? 0 : at(from);
    const py = d === 0 ? 0 : px - from;
    while (x > px && y > py) {
      out.push({ sign: ' ', text: a[--x] as string });
      y--;
    }
    if (d === 0) break;
    if (x === px) out.push({ sign: '+', text: b[--y] as string });
    else out.push({ sign: '-', text: a[--x] as string });
  }
  return out.reverse();
}

/** Changed lines with three lines around them. */
export function view(before: string, after: string): { changed: boolean; element: HTMLElement } {
  const all = diff(before.split('\n'), after.split('\n'));
  const near = all.map((_, i) => all.slice(Math.max(0, i - 3), i + 4).some((l) => l.sign !== ' '));
  const box = h('pre.diff', { tabindex: 0, 'aria-label': 'Changes' });
  let gap = false;
  all.forEach((line, i) => {
    if (!near[i]) {
      gap = true;
      return;
    }
    if (gap) box.append(h('span.gap', null, '⋯\n'));
    gap = false;
    const name = line.sign === '+' ? 'span.added' : line.sign === '-' ? 'span.removed' : 'span';
    box.append(h(name, null, `${line.sign} ${line.text}\n`));
  });
  return { changed: near.includes(true), element: box };
}

/** What differs between two texts, line by line. */
import { h } from './dom.js';
/** @import { Line } from './types.d.ts' */

/**
 * The shortest edit script, by Myers' greedy algorithm.
 *
 * @param {string[]} before
 * @param {string[]} after
 * @returns {Line[]}
 */
export function diff(before, after) {
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
  /**
   * @param {string} text
   * @returns {Line}
   */
  const same = (text) => ({ sign: ' ', text });
  return [...before.slice(0, head).map(same), ...middle(a, b), ...before.slice(before.length - tail).map(same)];
}

/**
 * @param {string[]} a
 * @param {string[]} b
 * @returns {Line[]}
 */
function middle(a, b) {
  const max = a.length + b.length;
  if (!max) return [];
  /** @type {Map<number, number>[]} */
  const trail = [];
  /** @type {Map<number, number>} */
  let reach = new Map([[1, 0]]);
  /**
   * @param {Map<number, number>} map
   * @param {number} k
   */
  const at = (map, k) => map.get(k) ?? -1;
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

/**
 * @param {string[]} a
 * @param {string[]} b
 * @param {Map<number, number>[]} trail
 * @param {number} length
 * @returns {Line[]}
 */
function back(a, b, trail, length) {
  /** @type {Line[]} */
  const out = [];
  let [x, y] = [a.length, b.length];
  for (let d = length; d >= 0; d--) {
    const reach = /** @type {Map<number, number>} */ (trail[d]);
    /** @param {number} k */
    const at = (k) => reach.get(k) ?? -1;
    const k = x - y;
    const from = k === -d || (k !== d && at(k - 1) < at(k + 1)) ? k + 1 : k - 1;
    const px = d === 0 ? 0 : at(from);
    const py = d === 0 ? 0 : px - from;
    while (x > px && y > py) {
      out.push({ sign: ' ', text: /** @type {string} */ (a[--x]) });
      y--;
    }
    if (d === 0) break;
    if (x === px) out.push({ sign: '+', text: /** @type {string} */ (b[--y]) });
    else out.push({ sign: '-', text: /** @type {string} */ (a[--x]) });
  }
  return out.reverse();
}

/**
 * Changed lines with three lines around them.
 *
 * @param {string} before
 * @param {string} after
 * @returns {{ changed: boolean; element: HTMLElement }}
 */
export function view(before, after) {
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

/** Compares texts line by line. */
import { h } from './dom.js';
/** @import { Line } from './types.d.ts' */

/** More changed lines than this are not compared, which would take too long. */
const MAX_EDITS = 2000;

/**
 * Returns the lines of both texts with the fewest changes, by Myers' greedy algorithm.
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
  return [...signed(' ', before.slice(0, head)), ...middle(a, b), ...signed(' ', before.slice(before.length - tail))];
}

/**
 * @param {Line['sign']} sign
 * @param {string[]} lines
 * @returns {Line[]}
 */
const signed = (sign, lines) => lines.map((text) => ({ sign, text }));

/**
 * Returns the difference of texts that have no common start and end.
 *
 * @param {string[]} a
 * @param {string[]} b
 * @returns {Line[]}
 */
function middle(a, b) {
  const max = Math.min(a.length + b.length, MAX_EDITS);
  // `reach[max + 1 + k]` is the furthest index in `a` on diagonal k, for the number of
  // edits so far.
  const origin = max + 1;
  const reach = new Int32Array(2 * origin + 1).fill(-1);
  reach[origin + 1] = 0;
  /** @type {(k: number) => number} */
  const at = (k) => /** @type {number} */ (reach[origin + k]);
  /** @type {Int32Array[]} */
  const trail = [];
  for (let d = 0; d <= max; d++) {
    // Diagonals from -d - 1 to d + 1, as they were before this edit.
    trail.push(reach.slice(origin - d - 1, origin + d + 2));
    for (let k = -d; k <= d; k += 2) {
      let x = k === -d || (k !== d && at(k - 1) < at(k + 1)) ? at(k + 1) : at(k - 1) + 1;
      let y = x - k;
      while (x < a.length && y < b.length && a[x] === b[y]) {
        x++;
        y++;
      }
      reach[origin + k] = x;
      if (x >= a.length && y >= b.length) return back(a, b, trail);
    }
  }
  return [...signed('-', a), ...signed('+', b)];
}

/**
 * Follows the trail of the edits backwards.
 *
 * @param {string[]} a
 * @param {string[]} b
 * @param {Int32Array[]} trail
 * @returns {Line[]}
 */
function back(a, b, trail) {
  /** @type {Line[]} */
  const out = [];
  let [x, y] = [a.length, b.length];
  for (let d = trail.length - 1; d >= 0; d--) {
    /** @param {number} k */
    const at = (k) => trail[d]?.[d + 1 + k] ?? -1;
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

/** Colors and other renditions of a terminal's cells. */
/** @import { Style } from './types.d.ts' */

export const BOLD = 1;
export const DIM = 2;
export const ITALIC = 4;
export const UNDERLINE = 8;
export const INVERSE = 16;
export const STRIKE = 32;

/** @type {Style} */
export const PLAIN = { fg: -1, bg: -1, flags: 0 };

/**
 * Returns `value`, or the nearest bound outside of which it is.
 *
 * @param {number} value
 * @param {number} low
 * @param {number} high
 * @returns {number}
 */
export const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/**
 * Returns a style with a list of graphic renditions (SGR) applied.
 *
 * @param {Style} old
 * @param {number[][]} groups parameters with their subparameters; -1 for omitted ones
 * @returns {Style}
 */
export function applyRenditions(old, groups) {
  const style = { ...old };
  for (let i = 0; i < groups.length; i++) {
    const [number = 0, ...sub] = groups[i] ?? [];
    const code = Math.max(0, number);
    if (code === 38 || code === 48 || code === 58) {
      const { color, used } = sub.length ? { color: extendedColor(sub), used: 0 } : listedColor(groups.slice(i + 1));
      i += used;
      if (color === null) continue;
      if (code === 38) style.fg = color;
      else if (code === 48) style.bg = color;
    } else if (code === 4 && sub[0] === 0) style.flags &= ~UNDERLINE;
    else setRendition(style, code);
  }
  return style;
}

/** @type {Record<number, number>} */
const SET_FLAGS = { 1: BOLD, 2: DIM, 3: ITALIC, 4: UNDERLINE, 7: INVERSE, 9: STRIKE, 21: UNDERLINE };

/** @type {Record<number, number>} */
const RESET_FLAGS = { 22: BOLD | DIM, 23: ITALIC, 24: UNDERLINE, 27: INVERSE, 29: STRIKE };

/**
 * Applies a graphic rendition that has one number.
 *
 * @param {Style} style
 * @param {number} code
 */
function setRendition(style, code) {
  if (code === 0) Object.assign(style, PLAIN);
  else if (code >= 30 && code <= 37) style.fg = code - 30;
  else if (code === 39) style.fg = -1;
  else if (code >= 40 && code <= 47) style.bg = code - 40;
  else if (code === 49) style.bg = -1;
  else if (code >= 90 && code <= 97) style.fg = code - 82;
  else if (code >= 100 && code <= 107) style.bg = code - 92;
  else style.flags = (style.flags | (SET_FLAGS[code] ?? 0)) & ~(RESET_FLAGS[code] ?? 0);
}

/**
 * Returns the color of `5:INDEX`, `2:R:G:B` or `2:SPACE:R:G:B`, or null for others.
 *
 * @param {number[]} values
 * @returns {number | string | null}
 */
function extendedColor(values) {
  /** @param {number | undefined} value */
  const byte = (value) => clamp(value ?? 0, 0, 255);
  if (values[0] === 5) return byte(values[1]);
  if (values[0] !== 2) return null;
  const [red, green, blue] = values.slice(values.length > 4 ? 2 : 1);
  return `rgb(${byte(red)}, ${byte(green)}, ${byte(blue)})`;
}

/**
 * Returns the color that is written as a list, `5;INDEX` or `2;R;G;B`, and the number
 * of parameters that it takes.
 *
 * @param {number[][]} groups
 * @returns {{ color: number | string | null; used: number }}
 */
function listedColor(groups) {
  const kind = groups[0]?.[0];
  const used = kind === 5 ? 2 : kind === 2 ? 4 : 0;
  return { color: extendedColor(groups.slice(0, used).map(([value = -1]) => value)), used };
}

/**
 * Returns a color as CSS has it, or null for the default one.
 *
 * @param {number | string} value an index into xterm's 256 colors, or a CSS color
 * @returns {string | null}
 */
export function colour(value) {
  if (typeof value === 'string') return value;
  if (value < 0) return null;
  if (value < 16) return `var(--t${value})`;
  if (value >= 232) {
    const grey = 8 + (value - 232) * 10;
    return `rgb(${grey}, ${grey}, ${grey})`;
  }
  /** @param {number} n */
  const level = (n) => (n ? 55 + n * 40 : 0);
  const n = value - 16;
  return `rgb(${level(Math.floor(n / 36))}, ${level(Math.floor(n / 6) % 6)}, ${level(n % 6)})`;
}

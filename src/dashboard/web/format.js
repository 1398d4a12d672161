/** Formats numbers, times and quantities. */

/**
 * Returns a duration as kubectl shows ages (`HumanDuration`).
 *
 * @param {number} seconds
 * @returns {string}
 */
export function age(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 120) return `${s}s`;
  const m = Math.floor(s / 60);
  if (m < 10) return s % 60 ? `${m}m${s % 60}s` : `${m}m`;
  if (m < 180) return `${m}m`;
  const h = Math.floor(m / 60);
  if (h < 8) return m % 60 ? `${h}h${m % 60}m` : `${h}h`;
  if (h < 48) return `${h}h`;
  const d = Math.floor(h / 24);
  if (d < 8) return h % 24 ? `${d}d${h % 24}h` : `${d}d`;
  if (d < 730) return `${d}d`;
  const y = Math.floor(d / 365);
  return y < 8 && d % 365 ? `${y}y${d % 365}d` : `${y}y`;
}

/**
 * @param {string | undefined} time
 * @returns {string}
 */
export const since = (time) =>
  time ? age((Date.now() - Date.parse(time)) / 1000) : '';

/** @type {Record<string, number>} */
const UNITS = {
  n: 1e-9, u: 1e-6, m: 1e-3, '': 1, k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, E: 1e18,
  Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30, Ti: 2 ** 40, Pi: 2 ** 50, Ei: 2 ** 60,
};

/**
 * Returns the number of a quantity, or NaN for other texts.
 *
 * @param {string | number | undefined} text
 * @returns {number}
 */
export function quantity(text) {
  if (typeof text === 'number') return text;
  const match = /^([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([a-zA-Z]{0,2})$/.exec(text ?? '');
  const unit = match ? UNITS[match[2] ?? ''] : undefined;
  return match && unit !== undefined ? Number(match[1]) * unit : NaN;
}

/**
 * @param {number} n
 * @returns {string}
 */
export function bytes(n) {
  if (!Number.isFinite(n)) return '–';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let i = 0;
  let value = n;
  while (value >= 1024 && i < units.length - 1) {
    value /= 1024;
    i++;
  }
  return `${value >= 100 || i === 0 ? Math.round(value) : value.toFixed(1)} ${units[i]}`;
}

/**
 * @param {number} cores
 * @returns {string}
 */
export function cpu(cores) {
  if (!Number.isFinite(cores)) return '–';
  return cores < 1 ? `${Math.round(cores * 1000)} m` : cores.toFixed(2);
}

/**
 * @param {number} n
 * @param {string} one
 * @param {string} [many]
 * @returns {string}
 */
export const plural = (n, one, many = `${one}s`) => `${n.toLocaleString('en')} ${n === 1 ? one : many}`;

/**
 * Returns the color class of a status.
 *
 * @param {string} status
 * @returns {'good' | 'warn' | 'bad' | 'busy' | 'idle'}
 */
export function tone(status) {
  if (/^(Running|Ready|Active|Bound|True|Available|Complete|Completed|Succeeded|Established|Approved|Normal|Healthy|Enabled)$/.test(status)) {
    return status === 'Completed' || status === 'Succeeded' || status === 'Complete' ? 'idle' : 'good';
  }
  if (/(Error|Failed|BackOff|Invalid|Evicted|OOM|Unhealthy|Lost|NotReady|Denied)/.test(status)) return 'bad';
  if (/(Pending|Creating|Terminating|Init|Released|Progressing|Waiting)/.test(status)) return 'busy';
  if (/(Warning|Unknown|Incomplete|SchedulingDisabled|Suspended|False)/.test(status)) return 'warn';
  return 'idle';
}

/** Compares digits in names as numbers. */
const collator = new Intl.Collator('en', { numeric: true });

/**
 * @param {string} a
 * @param {string} b
 * @returns {number}
 */
export const natural = (a, b) => collator.compare(a, b);

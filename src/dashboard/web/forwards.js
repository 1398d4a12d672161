/** Port-forwards, which the dashboard's server opens on local ports. */
import { api, serverPort } from './api.js';
import { h, onDispose, signal } from './dom.js';
import { icon } from './icons.js';
import { attempt, note } from './ui.js';
/** @import { Any, Obj, Signal } from './types.d.ts' */

/**
 * @typedef {object} Forward
 * @property {number} id
 * @property {string} namespace
 * @property {string} pod
 * @property {number} port
 * @property {number} local
 */

/**
 * Returns the link to a local port. Its host is another name of the loopback than the
 * page's: cookies do not depend on ports, and a pod must not receive the page's.
 *
 * @param {number} port
 * @returns {string}
 */
export const forwardLink = (port) =>
  `http://${location.hostname === 'localhost' ? '127.0.0.1' : 'localhost'}:${port}/`;

/**
 * @param {() => Obj} pod
 * @returns {HTMLElement}
 */
export function forwardsPane(pod) {
  const { namespace = '', name } = pod().metadata;
  /** @type {Signal<Forward[]>} */
  const open = signal([]);
  let gone = false;
  onDispose(() => (gone = true));
  const load = async () => {
    /** @type {Forward[]} */
    const all = await api('/rkube/forwards');
    if (!gone) open.value = all.filter((f) => f.namespace === namespace && f.pod === name);
  };
  void load().catch((/** @type {Error} */ error) => note(error.message, 'bad'));
  /** @param {number} port */
  const add = (port) =>
    attempt('', async () => {
      await api('/rkube/forwards', { method: 'POST', body: { namespace, pod: name, port } });
      await load();
    });
  /** @param {number} id */
  const remove = (id) =>
    attempt('', async () => {
      await api(`/rkube/forwards/${id}`, { method: 'DELETE' });
      await load();
    });
  const declared = (pod().spec?.containers ?? []).flatMap((/** @type {Any} */ c) => (c.ports ?? []).map((/** @type {Any} */ p) => ({ port: /** @type {number} */ (p.containerPort), name: /** @type {string} */ ((p.name ?? '')) })));
  const other = /** @type {HTMLInputElement} */ (h('input', { type: 'number', min: 1, max: 65535, placeholder: 'Port', 'aria-label': 'Port', required: true }));
  /**
   * @param {number} port
   * @param {string} label
   */
  const row = (port, label) => () => {
    const forward = open.value.find((f) => f.port === port);
    return h(
      'li',
      null,
      h('b', null, String(port)),
      h('span.dim', null, label),
      forward
        ? [
            h('a', { href: forwardLink(forward.local), target: '_blank', rel: 'noopener noreferrer' }, icon('link', 14), ` ${forwardLink(forward.local)}`),
            h('button', { onclick: () => void remove(forward.id) }, 'Close'),
          ]
        : h('button', { onclick: () => void add(port) }, 'Forward'),
    );
  };
  return h(
    'section',
    null,
    h('h2', null, 'Ports'),
    h('ul.rowsimple.forwards', null, declared.map((/** @type {{ port: number; name: string }} */ p) => row(p.port, p.name)), () =>
      open.value.filter((f) => !declared.some((/** @type {{ port: number }} */ p) => p.port === f.port)).map((f) => row(f.port, '')()),
    ),
    () => {
      const [first] = open.value;
      // The page itself came through a port-forward, which does not cover other ports.
      if (!first || Number(location.port || 80) === serverPort.value) return null;
      return h('p.warning', null, 'This page comes from another machine, and so do these ports. Forward them as well: ', h('code', null, `ssh ${open.value.map((f) => `-L ${f.local}:127.0.0.1:${f.local}`).join(' ')} HOST`));
    },
    h(
      'form.inlineform',
      {
        onsubmit: (/** @type {Event} */ event) => {
          event.preventDefault();
          if (other.value) void add(Number(other.value));
        },
      },
      other,
      h('button', { type: 'submit' }, 'Forward another port'),
    ),
  );
}

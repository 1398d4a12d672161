/** The cluster's addons: third-party software that is installed from manifests. */
import { api, discover } from './api.js';
import { h } from './dom.js';
import { loaded, run, table } from './machine.js';
import { action, attempt, badge, confirm } from './ui.js';
/** @import { Any } from './types.d.ts' */

/** @type {Record<string, string>} */
const WORDS = { enabled: 'Enabled', disabled: 'Disabled', incomplete: 'Incomplete', unknown: 'Unknown' };

/**
 * Returns a link to an addon's home page, or plain text unless it is an HTTP address.
 *
 * @param {Any} addon
 * @returns {HTMLElement | null}
 */
function homepage(addon) {
  if (!/^https?:\/\//.test(addon.homepage ?? '')) return null;
  return h('a', { href: addon.homepage, target: '_blank', rel: 'noreferrer noopener', 'aria-label': `Homepage of ${addon.name}` }, 'Homepage');
}

/** @returns {HTMLElement} */
export function addonsPane() {
  return loaded(
    () => api('/rkube/addons'),
    (/** @type {Any[]} */ all, again) => {
      // An addon may define new kinds, which the menu shows.
      const after = () => {
        again();
        void attempt('', discover);
      };
      /**
       * @param {Any} addon
       * @param {string} verb
       */
      const enable = (addon, verb) => action('play', verb, () => run(`Enabling ${addon.name}`, { action: 'addon-enable', addon: addon.name }, after));
      /** @param {Any} addon */
      const disable = (addon) =>
        action('trash', 'Disable', () => confirm(`Disable ${addon.name}`, 'Everything that it brought is removed: its namespaces with all that is in them, and its kinds with all objects of theirs.', 'Disable the addon', true, async () => run(`Disabling ${addon.name}`, { action: 'addon-disable', addon: addon.name }, after)), 'quiet-danger');
      /** @param {Any} addon */
      const buttons = (addon) => {
        if (addon.status === 'enabled') return [addon.enabledVersion === addon.version ? null : enable(addon, 'Update'), disable(addon)];
        if (addon.status === 'incomplete') return [enable(addon, 'Enable'), disable(addon)];
        return addon.status === 'disabled' ? enable(addon, 'Enable') : null;
      };
      /** @param {Any} addon */
      const there = (addon) => (addon.enabledVersion && addon.enabledVersion !== addon.version ? ` (${addon.enabledVersion})` : '');
      return [
        h('div.bar.tools', null, h('span.dim', null, all.some((a) => a.status !== 'unknown') ? 'What else the cluster can be given' : 'The cluster does not run.'), h('div.spring'), h('button', { onclick: again }, 'Look again')),
        table(
          'Addons',
          ['Addon', 'Version', 'Description', 'State', ''],
          all.map((a) => h('tr', null, h('td', null, h('b', null, a.name)), h('td', null, h('code', null, a.version)), h('td', null, a.description, ' ', homepage(a)), h('td', null, badge(WORDS[a.status] ?? a.status), there(a)), h('td.end', null, buttons(a)))),
        ),
      ];
    },
  );
}

/** The cluster's snapshots of objects and volumes. */
import { api } from './api.js';
import { h } from './dom.js';
import { bytes } from './format.js';
import { loaded, run, table } from './machine.js';
import { reload } from './main.js';
import { action, ageOf, ask, confirm } from './ui.js';
/** @import { Any } from './types.d.ts' */

/** A DNS label, as the command requires. */
const NAME = { pattern: '[a-z0-9]([a-z0-9\\-]*[a-z0-9])?', maxlength: 63, title: 'Lower-case letters, digits and -, with a letter or digit at both ends' };

/** @returns {HTMLElement} */
export function snapshotsPane() {
  return loaded(
    () => api('/rkube/snapshots'),
    (/** @type {Any[]} */ all, again) => {
      const after = () => {
        again();
        void reload();
      };
      const save = () => ask('Save a snapshot', 'Name', '', 'Save', async (name) => run(`Saving ${name}`, { action: 'snapshot-save', name }, again), 'text', NAME);
      /** @param {string} name */
      const restore = (name) => confirm(`Restore ${name}`, 'The cluster’s objects and volumes are replaced by those of the snapshot, and the cluster restarts. What was made since is lost.', 'Restore the snapshot', true, async () => run(`Restoring ${name}`, { action: 'snapshot-restore', name }, after));
      /** @param {string} name */
      const remove = (name) => confirm(`Delete ${name}`, 'The snapshot is removed from this machine; the cluster stays as it is.', 'Delete the snapshot', true, async () => run(`Deleting ${name}`, { action: 'snapshot-delete', name }, again));
      return [
        h('div.bar.tools', null, h('span.dim', null, 'Objects and volumes as they were'), h('div.spring'), action('plus', 'Save a snapshot', save)),
        all.length
          ? table(
              'Snapshots',
              ['Snapshot', 'Age', 'Objects', 'Size', 'Nodes', ''],
              all.map((s) =>
                h(
                  'tr',
                  null,
                  h('td', null, h('b', null, s.name)),
                  h('td', null, ageOf(s.created)),
                  h('td', null, Number(s.objects).toLocaleString('en')),
                  h('td', null, bytes(Number(s.bytes))),
                  h('td', null, (s.nodes ?? []).join(', ')),
                  h('td.end', null, action('undo', 'Restore', () => restore(s.name)), action('trash', 'Delete', () => remove(s.name), 'quiet-danger')),
                ),
              ),
            )
          : h('p.quiet', null, 'There are no snapshots yet.'),
      ];
    },
  );
}

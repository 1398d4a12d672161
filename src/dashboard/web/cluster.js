/** The cluster as rkube manages it on this machine: nodes, images, addons, snapshots, tunnel, logs. */
import { addonsPane } from './addons.js';
import { api, json, profile, text } from './api.js';
import { h, signal, untracked } from './dom.js';
import { bytes } from './format.js';
import { loaded, run, table } from './machine.js';
import { reload } from './main.js';
import { go } from './route.js';
import { snapshotsPane } from './snapshots.js';
import { action, ask, attempt, badge, confirm, note, tabs } from './ui.js';
/** @import { Any } from './types.d.ts' */

/** @returns {HTMLElement} */
export function clusterView() {
  const tab = signal('nodes');
  return h(
    'section.view',
    { 'aria-label': 'Cluster' },
    h('header.bar', null, h('h1', null, 'Cluster ', h('small', null, profile.peek())), h('div.spring')),
    tabs(
      [
        { id: 'nodes', label: 'Nodes', build: () => untracked(nodesPane) },
        { id: 'images', label: 'Images', build: () => untracked(imagesPane) },
        { id: 'addons', label: 'Addons', build: () => untracked(addonsPane) },
        { id: 'snapshots', label: 'Snapshots', build: () => untracked(snapshotsPane) },
        { id: 'tunnel', label: 'Tunnel', build: () => untracked(tunnelPane) },
        { id: 'logs', label: 'Logs', build: () => untracked(logsPane) },
        { id: 'profiles', label: 'Profiles', build: () => untracked(profilesPane) },
      ],
      () => tab.value,
      (id) => (tab.value = id),
      'Cluster',
    ),
  );
}

/** @returns {HTMLElement} */
function nodesPane() {
  return loaded(
    () => api('/rkube/status'),
    (/** @type {Any} */ status, again) => {
      /** @type {Any[]} */
      const nodes = status.Nodes ?? [];
      const up = nodes.some((n) => n.Host === 'Running');
      const after = () => {
        again();
        void reload();
      };
      return [
        h(
          'div.bar.tools',
          null,
          h('span.dim', null, `Driver ${status.Driver}`),
          h('div.spring'),
          up
            ? [
                action('plus', 'Add a node', () => run('Adding a node', { action: 'node-add' }, after)),
                action('stop', 'Stop', () => confirm(`Stop ${profile.peek()}`, 'Its pods stop; start brings the cluster back as it was.', 'Stop', true, async () => run('Stopping', { action: 'stop' }, after))),
              ]
            : action('play', 'Start', () => run('Starting', { action: 'start' }, after), 'primary'),
          action('trash', 'Delete', () => confirm(`Delete ${profile.peek()}`, 'The cluster and everything in it is removed from this machine. This cannot be undone.', 'Delete the cluster', true, async () => run('Deleting', { action: 'delete' }, after)), 'quiet-danger'),
        ),
        table(
          'Nodes',
          ['Node', 'Address', 'Role', 'Machine', 'Agent', ''],
          nodes.map((n) => {
            const running = n.Host === 'Running';
            return h(
              'tr',
              null,
              h('td', null, h('b', null, n.Name)),
              h('td', null, h('code', null, n.IP)),
              h('td', null, n.Worker ? 'worker' : 'control plane'),
              h('td', null, badge(n.Host)),
              h('td', null, badge(n.Kubelet === 'Running' ? 'Ready' : 'NotReady')),
              h(
                'td.end',
                null,
                n.Worker
                  ? [
                      running
                        ? action('stop', 'Stop', () => run(`Stopping ${n.Name}`, { action: 'node-stop', node: n.Name }, after))
                        : // Without a control plane there is nothing that it could join.
                          up
                          ? action('play', 'Start', () => run(`Starting ${n.Name}`, { action: 'node-start', node: n.Name }, after))
                          : null,
                      action('trash', 'Delete', () => confirm(`Delete ${n.Name}`, 'Its pods are moved elsewhere, then the node is removed.', 'Delete', true, async () => run(`Deleting ${n.Name}`, { action: 'node-delete', node: n.Name }, after)), 'quiet-danger'),
                    ]
                  : null,
              ),
            );
          }),
        ),
      ];
    },
  );
}

/** @returns {HTMLElement} */
function imagesPane() {
  return loaded(
    () => api('/rkube/images'),
    (/** @type {Any[]} */ all, again) => {
      const file = h('input', {
        type: 'file',
        accept: '.tar,.tgz,.gz,.zst',
        hidden: true,
        onchange: (/** @type {Event} */ event) => {
          const chosen = /** @type {HTMLInputElement} */ (event.target).files?.[0];
          if (chosen) run(`Loading ${chosen.name}`, chosen, again, '/rkube/images', 'PUT');
        },
      });
      /**
       * @param {Any} i
       * @returns {string[]}
       */
      const names = (i) => i.repoTags ?? [];
      return [
        h(
          'div.bar.tools',
          null,
          h('span.dim', null, 'Images of the control plane’s node'),
          h('div.spring'),
          file,
          action('plus', 'Load an archive', () => file.click()),
          action('down2', 'Pull', () => ask('Pull an image on every node', 'Image', '', 'Pull', async (image) => run(`Pulling ${image}`, { action: 'image-pull', image }, again))),
        ),
        all.length
          ? table(
              'Images',
              ['Image', 'Size', ''],
              all.map((i) => {
                const name = names(i)[0] ?? i.id ?? '';
                return h('tr', null, h('td', null, h('code', null, names(i).join(', ') || String(i.id ?? ''))), h('td', null, bytes(Number(i.size))), h('td.end', null, action('trash', 'Remove', () => confirm(`Remove ${name}`, 'It is removed from every node.', 'Remove', true, async () => run(`Removing ${name}`, { action: 'image-remove', image: name }, again)), 'quiet-danger')));
              }),
            )
          : h('p.quiet', null, 'There are no images yet.'),
      ];
    },
  );
}

/** @returns {HTMLElement} */
function tunnelPane() {
  return loaded(
    () => api('/rkube/tunnel'),
    (/** @type {Any} */ tunnel, again) => {
      /**
       * @param {string} method
       * @param {string} done
       */
      const change = (method, done) => async () => {
        await attempt(done, () => api('/rkube/tunnel', { method }));
        again();
      };
      if (!tunnel.needed) {
        return [
          h('p', null, badge('Active'), ' ', 'Services of type LoadBalancer have addresses as long as the cluster runs. No tunnel is needed.'),
          h('p.dim', null, `Addresses are of ${tunnel.range}.`),
        ];
      }
      return [
        h('p', null, badge(tunnel.open ? 'Active' : 'Closed'), ' ', tunnel.open ? (tunnel.own ? 'opened by this dashboard' : 'opened by rkube tunnel on this machine') : 'Services of type LoadBalancer have no address.'),
        h('p.dim', null, `Addresses are of ${tunnel.range}.`),
        h('div.buttons.left', null, tunnel.open ? (tunnel.own ? h('button', { onclick: change('DELETE', 'Tunnel closed') }, 'Close') : null) : h('button.primary', { onclick: change('POST', 'Tunnel opened') }, 'Open a tunnel'), h('button', { onclick: again }, 'Look again')),
      ];
    },
  );
}

/** @returns {HTMLElement} */
function logsPane() {
  return loaded(
    () => text('/rkube/logs'),
    (/** @type {string} */ log, again) => [h('div.bar.tools', null, h('span.dim', null, 'Of the cluster’s own processes'), h('div.spring'), h('button', { onclick: again }, 'Read again')), h('pre.text', { tabindex: 0, role: 'region', 'aria-label': 'Logs' }, log)],
  );
}

/** @returns {HTMLElement} */
function profilesPane() {
  return loaded(
    () => json('/rkube/profiles'),
    (/** @type {Any[]} */ all) =>
      table(
        'Profiles',
        ['Profile', 'Status', 'Driver', 'Nodes', 'Address', ''],
        all.map((p) =>
          h('tr', null, h('td', null, h('b', null, p.Name)), h('td', null, badge(p.Status)), h('td', null, p.Driver), h('td', null, String(p.Nodes)), h('td', null, h('code', null, p.Address)), h('td.end', null, p.Name === profile.peek() ? h('span.dim', null, 'shown here') : h('button', {
            onclick: () => {
              go(`#/${encodeURIComponent(p.Name)}/overview`);
              note(`This is ${p.Name}`);
            },
          }, 'Show'))),
        ),
      ),
  );
}

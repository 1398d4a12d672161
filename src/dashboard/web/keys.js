/** What keys do, and whether single ones do it. */
import { h } from './dom.js';
import { dialog } from './ui.js';

const STORED = 'shortcuts';

/**
 * Whether keys without a modifier do anything outside of lists and fields.
 *
 * @returns {boolean}
 */
export const shortcutsOn = () => localStorage.getItem(STORED) !== 'off';

/** @type {[string[], string][]} */
const KEYS = [
  [['Ctrl', 'K'], 'Everything by typing'],
  [['/'], 'Search in the view'],
  [['?'], 'These keys'],
  [['g', 'o'], 'Overview'],
  [['g', 't'], 'Topology'],
  [['g', 'c'], 'Cluster'],
  [['g', 'n'], 'Create'],
  [['g', 'p'], 'Pods'],
  [['g', 'd'], 'Deployments'],
  [['↑', '↓', 'j', 'k'], 'Move in a list'],
  [['Space'], 'Select in a list'],
  [['Enter'], 'Open what a list is at'],
  [['Ctrl', 'Space'], 'Complete in the editor'],
  [['Ctrl', 'Enter'], 'Review in the editor'],
  [['Shift', 'F6'], 'Leave the terminal'],
];

/** Shows them. */
export function showKeys() {
  dialog('Keys', (close) => [
    h('dl.keys', null, KEYS.map(([keys, what]) => h('div', null, h('dt', null, keys.map((k) => [h('kbd', null, k), ' '])), h('dd', null, what)))),
    h(
      'label.check',
      null,
      h('input', {
        type: 'checkbox',
        checked: shortcutsOn(),
        onchange: (/** @type {Event} */ event) => localStorage.setItem(STORED, /** @type {HTMLInputElement} */ (event.target).checked ? 'on' : 'off'),
      }),
      'Keys without Ctrl work everywhere',
    ),
    h('div.buttons', null, h('button', { onclick: close, autofocus: true }, 'Close')),
  ]);
}

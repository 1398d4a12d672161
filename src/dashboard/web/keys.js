/** Keyboard shortcuts. */
import { h } from './dom.js';
import { dialog } from './ui.js';

const STORED = 'shortcuts';

/**
 * Returns whether shortcuts without a modifier are enabled.
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

/** Shows the shortcuts. */
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

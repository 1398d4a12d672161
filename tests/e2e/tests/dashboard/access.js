// Checks the page for the WCAG 2.2 AA criteria that a program can check. Returns a list of
// findings, which is empty if there are none.
const found = new Set();
const tell = (rule, element, text = '') => {
  const tag = element ? element.outerHTML.replace(/\s+/g, ' ').slice(0, 110) : '';
  found.add(`${rule}: ${text} ${tag}`);
};
const open = [...document.querySelectorAll('dialog[open]')].pop();
// A modal dialog makes the rest of the page inert.
const scope = open ?? document.body;
const all = [...scope.querySelectorAll('*')];
const style = (e) => getComputedStyle(e);
const visible = (e) => e.checkVisibility({ visibilityProperty: true }) && e.getClientRects().length > 0;
const clipped = (e) => Boolean(e.closest('.sr, .skip')) || style(e).clipPath === 'inset(50%)';

// Colours ---------------------------------------------------------------------
const parse = (text) => {
  const numbers = /^rgba?\(([^)]+)\)$/.exec(text)?.[1]?.split(/[ ,/]+/).map(Number);
  if (!numbers) throw new Error(`a colour that is not understood: ${text}`);
  return { r: numbers[0], g: numbers[1], b: numbers[2], a: numbers[3] ?? 1 };
};
const over = (top, below) => ({
  r: top.r * top.a + below.r * (1 - top.a),
  g: top.g * top.a + below.g * (1 - top.a),
  b: top.b * top.a + below.b * (1 - top.a),
  a: 1,
});
const luminance = ({ r, g, b }) => {
  const [x, y, z] = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const contrast = (a, b) => {
  const [x, y] = [luminance(a), luminance(b)];
  return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
};
const behind = (e) => {
  const layers = [];
  for (let at = e; at; at = at.parentElement) {
    const colour = parse(style(at).backgroundColor);
    if (colour.a > 0) layers.push(colour);
    if (colour.a === 1) break;
  }
  let result = { r: 255, g: 255, b: 255, a: 1 };
  for (const layer of layers.reverse()) result = over(layer, result);
  return result;
};
const faintness = (e) => {
  let opacity = 1;
  for (let at = e; at; at = at.parentElement) opacity *= Number(style(at).opacity);
  return opacity;
};
const readable = (e, colour, what) => {
  const s = style(e);
  const size = parseFloat(s.fontSize);
  const large = size >= 24 || (size >= 18.66 && Number(s.fontWeight) >= 700);
  const fore = parse(colour);
  if (fore.a === 0) return;
  const back = behind(e);
  const ratio = contrast(over({ ...fore, a: fore.a * faintness(e) }, back), back);
  if (ratio < (large ? 3 : 4.5)) tell('1.4.3 contrast', e, `${what} has ${ratio.toFixed(2)}`);
};
const off = (e) => Boolean(e.closest(':disabled, [aria-disabled=true]'));
for (const e of all) {
  if (!visible(e) || clipped(e) || off(e)) continue;
  const text = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  if (text && !e.closest('svg, option')) readable(e, style(e).color, 'text');
  if (e.matches('input:not([type=checkbox], [type=radio], [type=file]), textarea, select') && Number(style(e).opacity) > 0) {
    readable(e, style(e).color, 'a value');
    if (e.placeholder) readable(e, getComputedStyle(e, '::placeholder').color, 'a placeholder');
  }
  // 1.4.11: the contrast between a field and its surroundings.
  if (e.matches('input:not([type=checkbox], [type=radio], [type=file]), select') && e.parentElement && !e.closest('.palette')) {
    const [edge, around, inside] = [parse(style(e).borderTopColor), behind(e.parentElement), behind(e)];
    if (contrast(over(edge, around), around) < 3 && contrast(inside, around) < 3) tell('1.4.11 field border', e, contrast(over(edge, around), around).toFixed(2));
  }
}
for (const e of scope.querySelectorAll('.dot, .live i, .tile, .track i, .pod')) {
  if (!visible(e) || e.matches('.faded')) continue;
  const own = e.matches('.pod') ? getComputedStyle(e, '::before').borderTopColor : e.matches('.tile') ? style(e).borderLeftColor : style(e).backgroundColor;
  const around = behind(e.parentElement);
  const ratio = contrast(over(parse(own), around), around);
  if (ratio < 3) tell('1.4.11 graphics', e, ratio.toFixed(2));
}

// Names, roles, values ----------------------------------------------------------
const content = (e) => {
  if (e.nodeType === 3) return e.data;
  if (e.nodeType !== 1 || e.getAttribute('aria-hidden') === 'true' || e.hidden) return '';
  if (e.hasAttribute('aria-label')) return ` ${e.getAttribute('aria-label')} `;
  if (e.tagName === 'IMG') return e.alt;
  return [...e.childNodes].map(content).join(' ');
};
const nameOf = (e) => {
  const by = e.getAttribute('aria-labelledby');
  if (by) return by.split(/\s+/).map((id) => content(document.getElementById(id) ?? document.createTextNode(''))).join(' ').trim();
  if (e.hasAttribute('aria-label')) return e.getAttribute('aria-label').trim();
  if (e.labels?.length) return [...e.labels].map((l) => [...l.childNodes].filter((n) => n !== e).map(content).join(' ')).join(' ').trim();
  if (e.tagName === 'IMG') return e.alt.trim();
  const own = e.matches('a, button, summary, [role=tab], [role=option], [role=gridcell]') ? content(e).trim() : '';
  return own || (e.title ?? '').trim();
};
const NAMED = 'a[href], button, input:not([type=hidden]), select, textarea, summary, dialog, nav, table, progress, [role=tab], [role=option], [role=grid], [role=img], [role=meter], [role=log], [role=listbox], [role=tablist], [role=toolbar], [role=radiogroup], [role=tabpanel], [tabindex="0"]';
const named = [...scope.querySelectorAll(NAMED), ...(open ? [open] : [])];
for (const e of named) {
  if (!visible(e) && !e.matches('textarea.terminput')) continue;
  const name = nameOf(e);
  if (!name) tell('4.1.2 name', e);
  if (e.matches('a, button') && e.hasAttribute('aria-label')) {
    const seen = [...e.childNodes].map(content).join(' ').replace(/\s+/g, ' ').trim().toLowerCase();
    const first = seen.split(' ctrl')[0];
    if (first.length > 1 && !name.toLowerCase().includes(first)) tell('2.5.3 label in name', e, `“${seen}” is shown`);
  }
}
for (const e of scope.querySelectorAll('img')) if (!e.hasAttribute('alt')) tell('1.1.1 alt', e);
for (const e of scope.querySelectorAll('svg')) if (!e.closest('[aria-hidden=true]') && !e.getAttribute('aria-label')) tell('1.1.1 svg', e);
const ids = new Map();
for (const e of document.querySelectorAll('[id]')) {
  if (ids.has(e.id)) tell('4.1.1 id', e, 'twice');
  ids.set(e.id, e);
}
for (const attribute of ['aria-labelledby', 'aria-describedby', 'aria-controls', 'aria-activedescendant', 'for']) {
  for (const e of scope.querySelectorAll(`[${attribute}]`)) {
    for (const id of e.getAttribute(attribute).split(/\s+/)) if (id && !ids.has(id)) tell('1.3.1 reference', e, `${attribute} ${id}`);
  }
}
const INSIDE = { option: ['listbox'], tab: ['tablist'], row: ['rowgroup', 'grid', 'table'], gridcell: ['row'], columnheader: ['row'], listitem: ['list'] };
const ROLES = new Set(['grid', 'rowgroup', 'row', 'gridcell', 'columnheader', 'tablist', 'tab', 'tabpanel', 'listbox', 'option', 'combobox', 'status', 'alert', 'log', 'img', 'meter', 'toolbar', 'radiogroup', 'search', 'region', 'list', 'listitem']);
const ALLOWED = {
  'aria-pressed': 'button', 'aria-selected': '[role=option], [role=tab], [role=row], [role=gridcell]', 'aria-sort': '[role=columnheader], th',
  'aria-expanded': 'button, summary, [role=combobox], a', 'aria-current': 'a', 'aria-rowcount': '[role=grid], table', 'aria-rowindex': '[role=row], tr',
  'aria-activedescendant': '[role=combobox], [role=grid], [role=listbox], textarea', 'aria-valuenow': '[role=meter]', 'aria-multiselectable': '[role=grid], [role=listbox]',
};
for (const e of scope.querySelectorAll('[role]')) {
  const role = e.getAttribute('role');
  if (!ROLES.has(role)) tell('4.1.2 role', e, role);
  const parents = INSIDE[role];
  if (parents && !parents.includes(e.parentElement?.getAttribute('role') ?? '')) tell('1.3.1 parent', e, role);
  if (role === 'row' && [...e.children].some((c) => !/^(gridcell|columnheader|rowheader|cell)$/.test(c.getAttribute('role') ?? ''))) tell('1.3.1 cells', e);
  if (role === 'tablist' && e.querySelectorAll('[aria-selected=true]').length !== 1) tell('4.1.2 tabs', e);
  if (role === 'grid' && visible(e)) {
    const count = Number(e.getAttribute('aria-rowcount'));
    if (!count) tell('1.3.1 rowcount', e);
    const [wide] = new Set([...e.querySelectorAll('[role=row]')].map((r) => r.children.length));
    if ([...e.querySelectorAll('[role=row]')].some((r) => r.children.length !== wide)) tell('1.3.1 columns', e);
    if (e.querySelectorAll('.rows [role=row]:not([aria-rowindex])').length) tell('1.3.1 rowindex', e);
  }
  if (role === 'meter' && !(Number(e.getAttribute('aria-valuenow')) <= Number(e.getAttribute('aria-valuemax')))) tell('4.1.2 meter', e);
}
for (const [attribute, selector] of Object.entries(ALLOWED)) {
  for (const e of scope.querySelectorAll(`[${attribute}]`)) if (!e.matches(selector)) tell('4.1.2 attribute', e, attribute);
}
for (const e of scope.querySelectorAll('table')) {
  const heads = [...e.querySelectorAll('thead th')];
  if (!heads.length || heads.some((t) => !t.scope || !content(t).trim())) tell('1.3.1 table head', e);
}
for (const e of scope.querySelectorAll('[tabindex]')) if (e.tabIndex > 0) tell('2.4.3 tabindex', e);
for (const e of scope.querySelectorAll('a[href] a[href], button button, a[href] button, button a[href], label button')) tell('4.1.2 nested', e);

// The page ------------------------------------------------------------------------
if (!/^[a-z]{2}/.test(document.documentElement.lang)) tell('3.1.1 lang', document.documentElement);
if (!/\S · \S/.test(document.title)) tell('2.4.2 title', null, document.title);
if (/user-scalable|maximum-scale/.test(document.querySelector('meta[name=viewport]')?.content ?? '')) tell('1.4.4 zoom', null);
if (!open) {
  for (const [selector, many] of [['main', 1], ['nav', 1], ['main h1', 1]]) {
    const there = [...document.querySelectorAll(selector)].filter((e) => visible(e) || selector === 'nav').length;
    if (selector === 'nav' ? there < many : there !== many) tell('1.3.1 landmark', null, `${there} of ${selector}`);
  }
}
let level = open ? 1 : 0;
for (const e of scope.querySelectorAll(open ? 'h1, h2, h3, h4' : 'main :is(h1, h2, h3, h4)')) {
  if (!visible(e) && !clipped(e)) continue;
  const mine = Number(e.tagName[1]);
  if (mine > level + 1) tell('1.3.1 heading', e, `after level ${level}`);
  if (!content(e).trim()) tell('2.4.6 heading', e);
  level = mine;
}
if (matchMedia('(prefers-reduced-motion: reduce)').matches) {
  for (const e of all) {
    const s = style(e);
    const moves = (t) => t.split(',').some((x) => parseFloat(x) > 0);
    if (moves(s.transitionDuration) || (s.animationName !== 'none' && moves(s.animationDuration)) || s.scrollBehavior === 'smooth') tell('2.3.3 motion', e);
  }
}

// Targets: 24 by 24 pixels, or that much space around the centre ------------------------
const inText = (e) => style(e).display === 'inline' && [...e.parentElement.childNodes].some((n) => n !== e && n.textContent.trim());
const targets = [];
for (const e of scope.querySelectorAll('a[href], button, input:not([type=file]), select, textarea, summary, [role=option], [role=tab]')) {
  if (!visible(e) || clipped(e) || off(e) || inText(e) || Number(style(e).opacity) === 0) continue;
  const label = e.matches('[type=checkbox], [type=radio]') ? e.closest('label') : null;
  const box = (label ?? e).getBoundingClientRect();
  if (box.width && box.height) targets.push({ e, box, x: box.left + box.width / 2, y: box.top + box.height / 2, small: box.width < 23.9 || box.height < 23.9 });
}
for (const t of targets.filter((t) => t.small)) {
  const near = targets.find((o) => {
    if (o === t || o.e.contains(t.e) || t.e.contains(o.e)) return false;
    if (o.small) return Math.hypot(o.x - t.x, o.y - t.y) < 24;
    const [dx, dy] = [Math.max(o.box.left - t.x, 0, t.x - o.box.right), Math.max(o.box.top - t.y, 0, t.y - o.box.bottom)];
    return Math.hypot(dx, dy) < 12;
  });
  if (near) tell('2.5.8 target size', t.e, `${t.box.width.toFixed(0)}×${t.box.height.toFixed(0)} beside ${near.e.outerHTML.slice(0, 50)}`);
}
return [...found];

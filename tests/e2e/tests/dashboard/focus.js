// Checks the focused element: whether it is visible, and its position in the page.
const e = document.activeElement;
if (!e || e === document.body) return { end: true, findings: [] };
const findings = [];
const say = (rule) => findings.push(`${rule}: ${e.outerHTML.replace(/\s+/g, ' ').slice(0, 110)}`);
const box = e.getBoundingClientRect();
const hidden = Number(getComputedStyle(e).opacity) === 0;
const s = getComputedStyle(e);
if (!(s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2)) {
  // Without an outline, another style must change with the focus.
  const around = [];
  for (let at = e; at && around.length < 4; at = at.parentElement) around.push(at);
  const look = () => around.map((a) => { const c = getComputedStyle(a); return [c.borderColor, c.boxShadow, c.backgroundColor, c.outline].join(); });
  const focused = look();
  e.blur();
  const blurred = look();
  e.focus({ preventScroll: true });
  if (focused.join('|') === blurred.join('|')) say('2.4.7 focus is not seen');
}
if (!hidden) {
  if (box.bottom < 0 || box.right < 0 || box.top > innerHeight || box.left > innerWidth) say('2.4.11 focus is outside');
  else {
    // At least one of its points must not be covered.
    const points = [[0.5, 0.5], [0.1, 0.5], [0.9, 0.5], [0.5, 0.1], [0.5, 0.9]];
    const seen = points.some(([x, y]) => {
      const top = document.elementFromPoint(Math.min(innerWidth - 1, Math.max(0, box.left + box.width * x)), Math.min(innerHeight - 1, Math.max(0, box.top + box.height * y)));
      return top && (e.contains(top) || top.contains(e));
    });
    if (!seen) say('2.4.11 focus is hidden');
  }
}
const order = window.lastFocus && window.lastFocus.isConnected ? Boolean(window.lastFocus.compareDocumentPosition(e) & (Node.DOCUMENT_POSITION_FOLLOWING | Node.DOCUMENT_POSITION_CONTAINED_BY)) : true;
if (!order) findings.push('wrapped');
window.lastFocus = e;
return { end: false, findings, text: (e.textContent || e.getAttribute('aria-label') || '').trim().slice(0, 40) };

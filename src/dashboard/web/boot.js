/**
 * Loads the page again if a part of it could not be fetched. It stands in the page itself.
 *
 * Browsers abort requests when a network interface of the machine appears or disappears, as it
 * does when a cluster starts. They retry the page, but not its modules and style sheets.
 */
{
  const tries = Number(sessionStorage.getItem('loads') ?? 0);
  let failed = false;
  // Errors of resources do not bubble.
  document.addEventListener(
    'error',
    ({ target }) => {
      const needed = target instanceof HTMLScriptElement || (target instanceof HTMLLinkElement && target.rel === 'stylesheet');
      if (!needed || failed) return;
      failed = true;
      // About a minute in all.
      if (tries < 20) {
        sessionStorage.setItem('loads', String(tries + 1));
        setTimeout(() => location.reload(), Math.min(100 << tries, 4000));
      } else {
        sessionStorage.removeItem('loads');
        addEventListener('load', () => document.body.append('A part of the dashboard cannot be loaded. Does `rkube dashboard` still run? Load the page again.'));
      }
    },
    true,
  );
  // Scripts and style sheets have loaded when this fires without an error.
  addEventListener('load', () => {
    if (!failed) sessionStorage.removeItem('loads');
  });
}

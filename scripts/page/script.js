(() => {
  const all = [...document.querySelectorAll('details.code')], button = document.getElementById('code-switch')
  if (!all.length) return
  const label = () => { button.textContent = all.every(o => o.open) ? 'Hide all code' : 'Show all code' }
  const set = open => { all.forEach(o => { o.open = open }); label() }
  const remember = value => { try { if (value === undefined) return localStorage.getItem('code'); localStorage.setItem('code', value) } catch { } }
  button.hidden = false
  button.addEventListener('click', () => {
    const open = !all.every(o => o.open), before = button.getBoundingClientRect().top
    set(open); remember(open ? 'shown' : 'folded')
    scrollBy(0, button.getBoundingClientRect().top - before)
  })
  all.forEach(o => o.addEventListener('toggle', label))
  if (remember() === 'shown') set(true)
  else label()
  // a link into a folded cell opens it
  const unfold = () => document.getElementById(decodeURIComponent(location.hash.slice(1)))?.closest('details.code')?.setAttribute('open', '')
  addEventListener('hashchange', unfold)
  unfold()
})()

// Tables that sort, filter and show one page of rows at a time.

const collator = new Intl.Collator('en', { numeric: true });

// columns: {title, value(row) to sort and search by, cell(row) to show, numeric, help}.
// choices: {label, value(row), values, names}: a list to filter by.
function table({ id, columns, rows, choices = [], search = true, size = 25, noun = 'row' }) {
  const state = { sort: -1, down: false, page: 0, text: '', chosen: choices.map(() => '') };
  const haystack = rows.map((row) => columns.map((column) => column.value(row)).join('\n').toLowerCase());
  const body = element('tbody');
  const told = element('span', { class: 'told', 'aria-live': 'polite' });
  const turns = ['‹ previous', 'next ›'].map((text, k) =>
    element('button', { type: 'button', click: () => show(state.page + 2 * k - 1) }, text));
  const heads = columns.map((column, k) => {
    const button = element('button', { type: 'button', click: () => sort(k) }, column.title);
    return element('th', { scope: 'col', class: column.numeric ? 'number' : null, title: column.help ?? null }, button);
  });
  const selects = choices.map((choice, k) => {
    const options = choice.values.map((value, n) => element('option', { value }, choice.names?.[n] ?? value));
    const change = (event) => { state.chosen[k] = event.target.value; show(0); };
    return element('select', { 'aria-label': choice.label, change }, element('option', { value: '' }, choice.label), ...options);
  });
  const input = search
    ? element('input', {
      type: 'search', placeholder: 'Filter', 'aria-label': `Filter by text: ${noun}`,
      input: (event) => { state.text = event.target.value.toLowerCase(); show(0); },
    })
    : null;
  let order = rows.map((_, k) => k);

  function sort(k) {
    state.down = state.sort === k ? !state.down : Boolean(columns[k].numeric);
    state.sort = k;
    const values = rows.map(columns[k].value);
    const compare = columns[k].numeric ? (a, b) => values[a] - values[b] : (a, b) => collator.compare(values[a], values[b]);
    order = rows.map((_, n) => n).sort((a, b) => (state.down ? compare(b, a) : compare(a, b)) || a - b);
    heads.forEach((head, n) => (n === k ? head.setAttribute('aria-sort', state.down ? 'descending' : 'ascending') : head.removeAttribute('aria-sort')));
    show(0);
  }

  function show(page) {
    const found = order.filter((k) => haystack[k].includes(state.text)
      && choices.every((choice, n) => state.chosen[n] === '' || String(choice.value(rows[k])) === state.chosen[n]));
    const last = Math.max(0, Math.ceil(found.length / size) - 1);
    state.page = Math.min(Math.max(0, page), last);
    const start = state.page * size;
    body.replaceChildren(...found.slice(start, start + size).map((k) => element('tr', {}, ...columns.map((column) =>
      element('td', { class: column.numeric ? 'number' : null, 'data-title': column.title }, column.cell ? column.cell(rows[k]) : String(column.value(rows[k])))))));
    const of = found.length < rows.length ? ` of ${number(rows.length)}` : '';
    const span = found.length > size ? `${number(start + 1)}–${number(Math.min(start + size, found.length))} of ` : '';
    told.textContent = `${span}${number(found.length)}${span ? '' : of} ${plural(found.length, noun, false)}${span && of ? ` (filtered from ${number(rows.length)})` : ''}`;
    turns.forEach((turn, n) => { turn.hidden = last === 0; turn.disabled = state.page === (n ? last : 0); });
  }

  show(0);
  const bar = search || choices.length || rows.length > size ? element('div', { class: 'bar' }, input, ...selects, told, ...turns) : null;
  const node = element('div', { class: 'table', id: id ?? null }, bar,
    element('div', { class: 'scroll' }, element('table', {}, element('thead', {}, element('tr', {}, ...heads)), body)));
  // Choose a value of a list from elsewhere on the page.
  const choose = (k, value) => { selects[k].value = value; state.chosen[k] = value; show(0); };
  return { node, choose };
}

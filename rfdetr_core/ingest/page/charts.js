// Charts as inline SVG. Splits are told apart by colour (classes s0, s1, s2 of the style sheet).

const WIDE = 480, HIGH = 230, LEFT = 50, RIGHT = 18, BOTTOM = 42, TOP = 16;
const ticks = (value) => (value >= 1000 ? `${+(value / 1000).toPrecision(2)}k` : `${+value.toPrecision(3)}`);

// The share of each split's values in each bin. marks: [value, text] of vertical lines.
function histogram({ edges, counts }, { axis, format = ticks, marks = [], every = 1, unit }) {
  const bins = edges.length - 1;
  if (bins < 1) return element('p', { class: 'none' }, 'Nothing to show.');
  const totals = counts.map(sum);
  const shares = counts.map((some, k) => some.map((value) => (totals[k] ? value / totals[k] : 0)));
  const top = Math.max(...shares.flat());
  const x = (bin) => LEFT + (bin / bins) * (WIDE - LEFT - RIGHT);
  const y = (share) => HIGH - BOTTOM - (share / top) * (HIGH - BOTTOM - TOP);
  const chart = svg('svg', { viewBox: `0 0 ${WIDE} ${HIGH}`, class: 'chart', role: 'img', 'aria-label': axis });
  for (const share of [0, top / 2, top]) {
    chart.append(svg('line', { x1: LEFT, x2: WIDE - RIGHT, y1: y(share), y2: y(share), class: 'rule' }),
      svg('text', { x: LEFT - 6, y: y(share) + 4, class: 'end' }, `${+(100 * share).toPrecision(2)} %`));
  }
  shares.forEach((some, k) => {
    if (!totals[k]) return;
    const steps = some.map((share, bin) => `L${x(bin).toFixed(1)} ${y(share).toFixed(1)}H${x(bin + 1).toFixed(1)}`).join('');
    const outline = `M${x(0)} ${y(0)}${steps}L${x(bins)} ${y(0)}`;
    chart.append(svg('path', { d: outline, class: `area s${k}` }));
  });
  // Bins are apart by the logarithm or by the value, whichever the edges are.
  const place = (value) => {
    const after = edges.findIndex((edge) => edge > value);
    if (after < 1) return null;
    const [low, high] = [edges[after - 1], edges[after]];
    return x(after - 1 + (value - low) / (high - low));
  };
  for (const [value, text] of marks) {
    const at = place(value);
    if (at !== null) {
      chart.append(svg('line', { x1: at, x2: at, y1: TOP - 6, y2: HIGH - BOTTOM, class: 'mark' }),
        svg('text', { x: at + 4, y: TOP + 2, class: 'faint' }, text));
    }
  }
  const named = edges.map((edge, k) => [edge, k]).filter(([edge, k]) => (typeof every === 'function' ? every(edge) : k % every === 0));
  const step = Math.ceil(named.length / 9);
  named.filter((_, k) => k % step === 0).forEach(([edge, k]) =>
    chart.append(svg('text', { x: x(k), y: HIGH - BOTTOM + 17, class: 'middle' }, format(edge))));
  chart.append(svg('text', { x: (LEFT + WIDE - RIGHT) / 2, y: HIGH - 5, class: 'middle faint' }, axis));
  for (let bin = 0; bin < bins; bin += 1) {
    const each = data.counts.splits.map((split, k) =>
      (totals[k] ? `${split.name}: ${number(counts[k][bin])} (${percent(counts[k][bin], totals[k])})` : null));
    const range = unit === 'whole' && edges[bin + 1] - edges[bin] === 1 ? format(edges[bin]) : `${format(edges[bin])} to ${format(edges[bin + 1])}`;
    chart.append(tip(svg('rect', { x: x(bin), y: 0, width: x(bin + 1) - x(bin), height: HIGH - BOTTOM, class: 'touch' }),
      [range, ...each.filter(Boolean)].join('\n')));
  }
  return chart;
}

// How many pairs of width and height are in each cell of a logarithmic grid.
function density({ edges, cells }, noun) {
  if (!cells.length) return element('p', { class: 'none' }, 'Nothing to show.');
  const [first, last] = [Math.min(...cells.flatMap(([a, b]) => [a, b])) - 1, Math.max(...cells.flatMap(([a, b]) => [a, b])) + 2];
  const low = Math.max(0, first), bins = Math.min(edges.length - 1, last) - low;
  const side = 300, at = (k) => (k * side) / bins;
  const most = Math.max(...cells.map((cell) => cell[2]));
  const chart = svg('svg', { viewBox: `0 0 ${side + LEFT + RIGHT} ${side + BOTTOM + 8}`, class: 'chart square', role: 'img', 'aria-label': `${noun}: width and height` });
  const area = svg('g', { transform: `translate(${LEFT} 8)` }, svg('rect', { width: side, height: side, class: 'ground' }),
    svg('line', { x1: 0, y1: side, x2: side, y2: 0, class: 'rule' }));
  for (const [across, up, count] of cells) {
    const cell = svg('rect', { x: at(across - low), y: side - at(up - low + 1), width: at(1), height: at(1), class: 'heat', 'fill-opacity': (0.12 + 0.88 * Math.sqrt(count / most)).toFixed(3) });
    area.append(tip(cell, `${ticks(edges[across])} to ${ticks(edges[across + 1])} wide\n${ticks(edges[up])} to ${ticks(edges[up + 1])} high\n${plural(count, noun)}`));
  }
  const step = Math.max(2, 2 * Math.ceil(bins / 14));
  for (let k = low + (low % 2); k <= low + bins; k += step) {
    area.append(svg('text', { x: at(k - low), y: side + 16, class: 'middle' }, ticks(edges[k])),
      svg('text', { x: -6, y: side - at(k - low) + 4, class: 'end' }, ticks(edges[k])));
  }
  area.append(svg('text', { x: side / 2, y: side + 35, class: 'middle faint' }, 'width, height up (pixels)'));
  chart.append(area);
  return chart;
}

// Parts of a whole as one bar; names and classes of the style sheet by position.
function parts(counts, names, classes) {
  const whole = sum(counts);
  const bar = element('div', { class: 'parts' });
  counts.forEach((count, k) => {
    if (!count) return;
    const part = tip(element('span', { class: classes[k] }), `${names[k]}: ${number(count)} (${percent(count, whole)})`);
    part.style.flexGrow = count;
    bar.append(part);
  });
  return bar;
}

// Objects of each class, the most frequent first, stacked by split.
function balance(classes) {
  const most = Math.max(1, ...classes.map((one) => sum(one.objects)));
  const names = data.counts.splits.map((split) => split.name);
  const rows = [...classes].sort((a, b) => sum(b.objects) - sum(a.objects)).map((one) => {
    const total = sum(one.objects);
    const bar = parts(one.objects, names, ['s0', 's1', 's2']);
    bar.style.width = `${(100 * total) / most}%`;
    return element('div', { class: 'bar-row' }, foreign(one.name), element('div', { class: 'track' }, bar), element('span', { class: 'number' }, number(total)));
  });
  return element('div', { class: 'bars', tabindex: 0, role: 'group', 'aria-label': 'Objects of each class' }, ...rows);
}

// Row: of the images with this class, the share that has the class of the column too.
function together({ classes, cells }) {
  const names = classes.map((index) => data.counts.classes[index].name);
  const n = classes.length, named = n <= 30;
  const cell = named ? 22 : Math.max(5, Math.floor(700 / n));
  const margin = named ? 150 : 8, right = named ? 90 : 8;
  const images = cells.reduce((all, [row, column, count]) => { if (row === column) all[row] = count; return all; }, new Array(n).fill(0));
  const side = n * cell, size = side + margin + right;
  const chart = svg('svg', { viewBox: `0 0 ${size} ${side + margin + 8}`, class: 'chart matrix', role: 'img', 'aria-label': 'Classes in the same images' },
    svg('rect', { x: margin, y: margin, width: side, height: side, class: 'ground' }));
  const draw = (row, column, count) => {
    const share = count / images[row];
    const mark = svg('rect', { x: margin + column * cell, y: margin + row * cell, width: cell - (named ? 1 : 0.4), height: cell - (named ? 1 : 0.4), class: row === column ? 'own' : 'heat', 'fill-opacity': row === column ? null : (0.1 + 0.9 * share).toFixed(3) });
    chart.append(tip(mark, row === column ? `${names[row]}: ${plural(count, 'image')}`
      : `${number(count)} of ${plural(images[row], 'image')} with ${names[row]}\nhave ${names[column]} too (${percent(count, images[row])})`));
  };
  for (const [row, column, count] of cells) {
    draw(row, column, count);
    if (row !== column) draw(column, row, count);
  }
  if (named) {
    names.forEach((name, k) => {
      const at = margin + (k + 0.5) * cell;
      chart.append(tip(svg('text', { x: margin - 6, y: at + 4, class: 'end' }, shortened(name, 17)), name),
        tip(svg('text', { transform: `translate(${at + 4} ${margin - 6}) rotate(-60)` }, shortened(name, 17)), name));
    });
  }
  chart.style.maxWidth = `${size}px`;
  chart.style.minWidth = named ? `${Math.min(size, 460)}px` : '0';
  return element('div', { class: 'scroll' }, chart);
}

const legend = (names, classes) => element('p', { class: 'legend' }, ...names.map((name, k) =>
  element('span', {}, element('i', { class: classes[k] }), name)));

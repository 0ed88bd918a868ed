// What stands where.

const { counts, findings } = data;
const SCALES = ['small (below 32²)', 'medium', 'large (96² and more)'];
const SCALE_COLORS = ['c0', 'c1', 'c2'];

function section(id, title, about, ...children) {
  const link = element('a', { href: `#${id}` }, title);
  byId('contents').append(link);
  byId('main').append(element('section', { id }, element('h2', {}, title), about ? element('p', { class: 'about' }, about) : null, ...children));
}

const panel = (title, about, ...children) => element('div', { class: 'panel' }, element('h3', {}, title), about ? element('p', { class: 'about' }, about) : null, ...children);

function header() {
  const errors = sum(findings.groups.filter((group) => group.severity === 'error').map((group) => group.count));
  const warnings = findings.total - errors;
  const told = [errors ? plural(errors, 'error') : null, warnings ? plural(warnings, 'warning') : null].filter(Boolean).join(', ');
  const status = data.stopped
    ? element('p', { class: 'status error' }, `Validation stopped: ${told}. Nothing is trained until the errors are mended.`)
    : element('p', { class: `status ${findings.total ? 'warning' : 'good'}` }, findings.total ? `Validation passed with ${told}.` : 'Validation passed without a finding.');
  byId('head').append(element('h1', {}, 'Dataset report'), status);
  if (!counts) return;
  const tile = (value, noun) => element('div', { class: 'tile' }, element('b', {}, number(value)), element('span', {}, noun));
  const total = (key) => sum(counts.splits.map((split) => split[key]));
  byId('head').append(element('div', { class: 'tiles' }, tile(total('images'), 'images'), tile(total('objects'), 'objects'),
    tile(counts.classes.length, counts.classes.length === 1 ? 'class' : 'classes'), tile(total('background'), 'images without objects')));
}

function overview() {
  const column = (title, key, help) => ({ title, value: (row) => row[key], cell: (row) => number(row[key]), numeric: true, help });
  const columns = [
    { title: 'split', value: (row) => row.name },
    column('images', 'images'), column('without objects', 'background', 'Background images: they teach what is not an object.'),
    column('objects', 'objects'), column('crowds', 'crowds', 'Ignored in evaluation, not trained on.'),
    { title: 'objects per image', value: (row) => (row.images ? row.objects / row.images : 0), cell: (row) => (row.images ? (row.objects / row.images).toFixed(1) : '–'), numeric: true },
    { title: 'classes', value: (row) => row.classes, cell: (row) => `${number(row.classes)} of ${number(counts.classes.length)}`, numeric: true },
    { title: 'small, medium, large', value: (row) => row.scales[0], cell: (row) => parts(row.scales, SCALES, SCALE_COLORS), numeric: true, help: "COCO's sizes by area; sorted by the number of small ones" },
  ];
  section('splits', 'Splits', null, table({ columns, rows: counts.splits, search: false, noun: 'split' }).node, legend(SCALES, SCALE_COLORS));
}

function faults() {
  if (!findings.total) return;
  const { groups, rows, names } = findings;
  const columns = [
    { title: 'severity', value: (row) => groups[row[0]].severity, cell: (row) => element('span', { class: `pill ${groups[row[0]].severity}` }, groups[row[0]].severity) },
    { title: 'code', value: (row) => groups[row[0]].code },
    { title: 'file', value: (row) => names[row[1]], cell: (row) => file(names[row[1]]) },
    { title: 'place', value: (row) => row[2] },
    { title: 'image', value: (row) => (row[3] === row[1] ? '' : names[row[3]] ?? ''), cell: (row) => file(row[3] === row[1] ? '' : names[row[3]] ?? '') },
    { title: 'what', value: (row) => row[4], cell: (row) => foreign(row[4]) },
  ];
  const file = (name) => { const node = foreign(name); node.classList.toggle('file', name !== ''); return node; };
  const severities = [...new Set(groups.map((group) => group.severity))];
  const all = table({
    id: 'all-findings', columns, rows, noun: 'finding',
    choices: [
      { label: 'all severities', values: severities, value: (row) => groups[row[0]].severity },
      { label: 'all codes', values: groups.map((group) => group.code), value: (row) => groups[row[0]].code },
    ],
  });
  const effects = { stop: 'stops the run', 'left out': 'left out', kept: 'kept' };
  const cards = groups.map((group) => element('div', { class: `panel group ${group.pictures.length > 2 ? 'many' : ''}` },
    element('h3', {}, element('span', { class: `pill ${group.severity}` }, group.severity), ` ${group.code} `, element('span', { class: 'faint' }, `${number(group.count)} ×, ${effects[group.effect]}`)),
    element('p', { class: 'about' }, group.advice, ' ',
      element('button', { type: 'button', class: 'link', click: () => { all.choose(1, group.code); byId('all-findings').scrollIntoView(); } }, 'list')),
    group.pictures.length ? element('div', { class: 'grid thumbs' }, ...group.pictures.map((one) =>
      card(one.picture, [foreign(one.path), element('span', { class: 'faint' }, one.where), element('span', {}, foreign(one.what))]))) : null));
  const more = findings.total > rows.length ? ` ${number(rows.length)} of ${number(findings.total)} are listed here, some of every code.` : '';
  section('findings', 'Findings', `All are in findings.csv and findings.json beside this page.${more}`, element('div', { class: 'groups' }, ...cards), all.node);
}

function copies() {
  const { total, shown } = data.pairs;
  if (!total) return;
  const pairs = shown.map(({ sides, distance, equal }) => element('div', { class: 'panel pair' },
    element('p', { class: 'about' }, equal ? 'the same bytes' : `alike: correlation ${(1 - distance).toFixed(4)}`, sides[0].split === sides[1].split ? '' : element('span', { class: 'pill warning' }, 'two splits')),
    element('div', { class: 'sides' }, ...sides.map((side) => card(side.picture, [foreign(side.path), element('span', { class: 'faint' }, side.split)])))));
  section('copies', 'Copies', `${plural(total, 'pair')} of images that are, or look, the same${total > shown.length ? `; ${number(shown.length)} are shown, those in two splits first` : ''}. Copies in two splits flatter the scores.`, element('div', { class: 'grid pairs' }, ...pairs));
}

function classes() {
  const splits = counts.splits.map((split, k) => ({
    title: split.name, value: (row) => row.objects[k], numeric: true, help: `Objects in ${split.name}, and their share of all its objects`,
    cell: (row) => element('span', {}, number(row.objects[k]), ' ', element('span', { class: 'faint' }, percent(row.objects[k], split.objects))),
  }));
  const columns = [
    { title: 'class', value: (row) => row.name, cell: (row) => element('span', { class: 'own-class' }, swatch(row), foreign(row.name)) },
    { title: 'id', value: (row) => row.id, cell: (row) => String(row.id), numeric: true },
    { title: 'objects', value: (row) => sum(row.objects), cell: (row) => number(sum(row.objects)), numeric: true },
    ...splits,
    { title: 'images', value: (row) => row.images, cell: (row) => number(row.images), numeric: true },
    { title: 'median size', value: (row) => (row.median.length ? row.median[0] * row.median[1] : 0), cell: (row) => (row.median.length ? row.median.join(' × ') : '–'), numeric: true, help: 'Median width and median height in pixels; sorted by their product' },
    { title: 'small, medium, large', value: (row) => row.scales[0], cell: (row) => parts(row.scales, SCALES, SCALE_COLORS), numeric: true, help: 'Sorted by the number of small ones' },
  ];
  const names = counts.splits.map((split) => split.name);
  const totals = counts.classes.map((one) => sum(one.objects)).filter(Boolean);
  const ratio = totals.length > 1 ? `The most frequent class has ${number(+(Math.max(...totals) / Math.min(...totals)).toPrecision(3))} times the objects of the rarest.` : null;
  section('classes', 'Classes', null, table({ id: 'class-table', columns, rows: counts.classes, noun: 'class' }).node,
    element('div', { class: 'grid charts' },
      panel('Balance', ratio, legend(names, ['s0', 's1', 's2']), balance(counts.classes)),
      counts.classes.length > 1 ? panel('Together in an image', `Of the images with the class of a row, the share that has the class of the column too.${counts.together.classes.length < counts.classes.length ? ` The ${counts.together.classes.length} most frequent classes.` : ''}`, together(counts.together)) : null));
}

function swatch(row) {
  const node = element('i', { class: 'swatch' });
  node.style.background = hue(counts.classes.indexOf(row));
  return node;
}

function scales() {
  const share = (k) => ({ title: SCALES[k], value: (row) => row.scales[k] / (row.objects || 1), cell: (row) => element('span', {}, number(row.scales[k]), ' ', element('span', { class: 'faint' }, percent(row.scales[k], row.objects))), numeric: true });
  const columns = [{ title: 'split', value: (row) => row.name }, share(0), share(1), share(2)];
  const bars = counts.splits.filter((split) => split.objects).map((split) =>
    element('div', { class: 'bar-row' }, element('span', {}, split.name), parts(split.scales, SCALES, SCALE_COLORS)));
  return element('div', {}, element('div', { class: 'wide-bars' }, ...bars), table({ columns, rows: counts.splits, search: false, noun: 'split' }).node);
}

function sizes() {
  const names = counts.splits.filter((split) => split.images).map((split) => split.name);
  const colors = counts.splits.flatMap((split, k) => (split.images ? [`s${k}`] : []));
  const power = (edge) => Number.isInteger(Math.log2(edge));
  const ratio = (edge) => (edge < 1 ? `1:${ticks(1 / edge)}` : `${ticks(edge)}:1`);
  const shares = (edge) => `${Math.round(100 * edge)} %`;
  section('objects', 'Objects', 'The share of the objects of each split, and of its images where images are counted.', legend(names, colors),
    element('div', { class: 'grid charts' },
      panel('Side', 'The square root of width × height.', histogram(counts.side, { axis: 'pixels', every: power, marks: [[32, '32'], [96, '96']] })),
      panel('Small, medium, large', 'COCO’s, by the area of the mask or box.', scales()),
      panel('Side against the image', 'The same, as a share of the image’s.', histogram(counts.share, { axis: 'share of the side of the image', format: shares, every: 2 })),
      panel('Aspect ratio', 'Width to height.', histogram(counts.aspect, { axis: 'width : height', format: ratio, every: power })),
      panel('Objects per image', null, histogram(counts.per_image, { axis: 'objects in an image', unit: 'whole' })),
      panel('Width and height of boxes', null, density(counts.width_height, 'box'))));
  const { distinct, most } = counts.sizes;
  const all = sum(counts.splits.map((split) => split.images));
  const columns = [
    { title: 'size', value: (row) => row[0] * row[1], cell: (row) => `${row[0]} × ${row[1]}`, numeric: true },
    { title: 'images', value: (row) => row[2], cell: (row) => number(row[2]), numeric: true },
    { title: 'share', value: (row) => row[2], cell: (row) => percent(row[2], all), numeric: true },
  ];
  section('images', 'Images', null, element('div', { class: 'grid charts' },
    panel('Sizes', distinct > most.length ? `The ${most.length} most frequent of ${number(distinct)}.` : null, table({ columns, rows: most, search: false, noun: 'size' }).node),
    panel('Width and height of images', null, density(counts.image_width_height, 'image'))));
}

header();
if (counts) overview();
else byId('main').append(element('p', { class: 'about' }, 'The labels cannot be understood well enough to count what they say. Mend these first.'));
faults();
if (counts) {
  copies();
  if (data.pictures.length) section('pictures', 'Pictures', `${plural(data.pictures.length, 'image')} with what is labelled in them: of every split, rare classes first. Click one to see it large.`, gallery(data.pictures));
  classes();
  sizes();
}
document.documentElement.dataset.ready = 'yes';

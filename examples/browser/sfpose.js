// Face verification in the browser: the steps of sfpose, on onnxruntime-web.
//
// Photos never leave the page. Geometry, resampling and scoring follow the Python library
// step by step; tests/test_browser.py compares the answers.

import * as ort from "/ort/ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = "/ort/";
ort.env.wasm.numThreads = 1;

// Where the landmarks lie in the canonical crop, as shares of its side (sfpose.geometry).
const CANONICAL = [
  [38.2946, 51.6963],
  [73.5318, 51.5014],
  [56.0252, 71.7366],
  [41.5493, 92.3655],
  [70.7299, 92.2041],
].map(([x, y]) => [x / 112, y / 112]);
const LANDMARK_CROP_SCALE = 1.4;
const MIRROR = [-1, 0, 1, 0, 1, 0, 0, 0, 1];
const MIRRORED_LANDMARKS = [1, 0, 2, 4, 3];
// Two looks that say more are left at that; else a face is asked for in squares of these sizes.
const SURE = Math.log(99);
const SIZES = [1, 0.8, 1.25];
// Two looks that are nearer, in sides of the canonical crop, found the landmarks; else they are
// looked for in squares turned by these degrees.
const STEADY = 0.036;
const TURNS = [-30, 0, 30];
// Less detail than this, fewer pixels, or less of the canonical crop's side seen above eyes and below the mouth,
// makes many people look alike.
const LEAST_DETAIL = 0.035;
const LEAST_SEEN = 0.08;
const LEAST_SIDE = 18; // of the canonical crop, in pixels of the picture
// Looks that are less sure than at an upright face are compared with those at the crop on its side.
const UPRIGHT = 8;

// A picture: {width, height, data}, data of three bytes a pixel.

export function pictureFrom({ width, height, data }) {
  const rgb = new Uint8ClampedArray(width * height * 3);
  for (let i = 0, j = 0; i < data.length; i += 4) {
    rgb[j++] = data[i];
    rgb[j++] = data[i + 1];
    rgb[j++] = data[i + 2];
  }
  return { width, height, data: rgb };
}

// Upright by EXIF, in sRGB; alpha is dropped.
export async function readPhoto(blob) {
  const bitmap = await createImageBitmap(blob, { premultiplyAlpha: "none" }).catch((error) => {
    throw new Error(`a photo must be an image that this browser can read; ${error.message}`);
  });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const pixels = context.getImageData(0, 0, bitmap.width, bitmap.height);
  for (let i = 3; i < pixels.data.length; i += 4)
    if (pixels.data[i] < 255) return pictureFrom(coloursUnderAlpha(bitmap));
  return pictureFrom(pixels);
}

// A 2D canvas keeps colours multiplied by alpha, and none where it is 0; a texture keeps them.
function coloursUnderAlpha(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  const most = gl?.getParameter(gl.MAX_TEXTURE_SIZE) ?? 0;
  if (Math.max(width, height) > most)
    throw new Error(
      `a photo with transparent parts must have at most ${most} pixels a side here; ` +
        `got ${width} x ${height}`,
    );
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const data = new Uint8Array(4 * width * height);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, data);
  return { width, height, data };
}

// Matrices are 3x3, row by row.

function multiply(a, b) {
  const c = new Array(9).fill(0);
  for (let i = 0; i < 3; i++)
    for (let j = 0; j < 3; j++)
      for (let k = 0; k < 3; k++) c[3 * i + j] += a[3 * i + k] * b[3 * k + j];
  return c;
}

const scaling = (x, y) => [x, 0, 0, 0, y, 0, 0, 0, 1];

function widening(scale) {
  const shift = 0.5 - scale / 2;
  return [scale, 0, shift, 0, scale, shift, 0, 0, 1];
}

function turning(degrees) {
  const [cosine, sine] = [Math.cos((degrees * Math.PI) / 180), Math.sin((degrees * Math.PI) / 180)];
  const shift = [(1 - cosine + sine) / 2, (1 - cosine - sine) / 2];
  return [cosine, -sine, shift[0], sine, cosine, shift[1], 0, 0, 1];
}

function centredSquare(picture, side) {
  return [side, 0, (picture.width - side) / 2, 0, side, (picture.height - side) / 2, 0, 0, 1];
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const variance = (values) => {
  const middle = mean(values);
  return mean(values.map((value) => (value - middle) ** 2));
};
const meanLogit = (looks) => mean(looks.map((look) => look.logit));

function similarityToCanonical(points) {
  const sourceMean = [mean(CANONICAL.map((p) => p[0])), mean(CANONICAL.map((p) => p[1]))];
  const targetMean = [mean(points.map((p) => p[0])), mean(points.map((p) => p[1]))];
  let a = 0;
  let b = 0;
  let spread = 0;
  points.forEach(([x, y], i) => {
    const [u, v] = [CANONICAL[i][0] - sourceMean[0], CANONICAL[i][1] - sourceMean[1]];
    const [s, t] = [x - targetMean[0], y - targetMean[1]];
    a += s * u + t * v;
    b += t * u - s * v;
    spread += s * s + t * t;
  });
  const size = a * a + b * b;
  if (size < 1e-12) throw new Error("the landmarks of a face must tell its size");
  a *= spread / size;
  b *= spread / size;
  return [
    a, -b, targetMean[0] - a * sourceMean[0] + b * sourceMean[1],
    b, a, targetMean[1] - b * sourceMean[0] - a * sourceMean[1],
    0, 0, 1,
  ];
}

// How far two looks lie apart, over the side of the canonical crop.
function moved([{ points: first }, { points: second }]) {
  const [a, , , b] = similarityToCanonical(second);
  const apart = second.map(([x, y], i) => Math.hypot(x - first[i][0], y - first[i][1]));
  return mean(apart) / Math.hypot(a, b) > STEADY;
}

// Whether a face leaves the picture above its eyes, below its mouth or beside either.
function isCutOff(picture, points) {
  const [, b, , , d] = similarityToCanonical(points).map((value) => value * LEAST_SEEN);
  const ends = [0, 1, 3, 4].flatMap((i) => {
    const [x, y] = points[i];
    return [[x, y], i < 2 ? [x - b, y - d] : [x + b, y + d]];
  });
  return ends.some(([x, y]) => x < 0 || y < 0 || x > picture.width || y > picture.height);
}

// By the variance of the crop's Laplacian over that of its brightness, where the picture shows it.
function isBlurred(picture, points) {
  const size = 48;
  const matrix = similarityToCanonical(points);
  if (Math.hypot(matrix[0], matrix[3]) < LEAST_SIDE) return true;
  const { data } = alignedCrop(picture, matrix, size);
  const pixel = (x, y) => Array.from(data.subarray(3 * (y * size + x), 3 * (y * size + x) + 3));
  const grey = (place) => mean(pixel(...place));
  const edges = [];
  const brightness = [];
  for (let y = size / 8 + 1; y < (7 * size) / 8 - 1; y++)
    for (let x = size / 8 + 1; x < (7 * size) / 8 - 1; x++) {
      const around = [[x, y - 1], [x, y + 1], [x - 1, y], [x + 1, y]];
      if (![[x, y], ...around].every((place) => pixel(...place).some((value) => value > 0))) continue;
      brightness.push(grey([x, y]));
      edges.push(4 * mean(around.map(grey)) - 4 * grey([x, y]));
    }
  const contrast = variance(brightness);
  return edges.length >= 20 && contrast > 0 && variance(edges) < LEAST_DETAIL * contrast;
}

// Python's round: a half goes to the even neighbour.
function round(value) {
  const below = Math.floor(value);
  return value - below === 0.5 ? below + (below % 2) : Math.round(value);
}

// A square, and what rounding took from it (Dekker).
function squared(value) {
  const product = value * value;
  const large = value * (2 ** 27 + 1);
  const high = large - (large - value);
  const low = value - high;
  return [product, high * high - product + 2 * high * low + low * low];
}

// Python's math.hypot: that of browsers may miss the last bit, which tips halves to one side.
function hypot(a, b) {
  const [larger, largerRest] = squared(Math.max(Math.abs(a), Math.abs(b)));
  const [smaller, smallerRest] = squared(Math.min(Math.abs(a), Math.abs(b)));
  const sum = larger + smaller;
  const rest = smaller - (sum - larger) + largerRest + smallerRest;
  const root = Math.sqrt(sum);
  const [again, againRest] = squared(root);
  return root + (sum - again + rest - againRest) / (2 * root);
}

// Pillow's resize with a triangle filter, in two passes of whole bytes: across and down, or as
// Pillow 13 does it, down and across where that is the shorter way.
function resize(picture, width, height) {
  const across = (part) => resizeRows(part, width);
  const down = (part) => transpose(resizeRows(transpose(part), height));
  const tall = picture.height - height > Math.max(0, 2 * (picture.width - width));
  return tall ? across(down(picture)) : down(across(picture));
}

function transpose({ width, height, data }) {
  const turned = new Uint8ClampedArray(data.length);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < 3; c++) turned[3 * (x * height + y) + c] = data[3 * (y * width + x) + c];
  return { width: height, height: width, data: turned };
}

function resizeRows(picture, width) {
  if (width === picture.width) return picture;
  const scale = picture.width / width;
  const support = Math.max(scale, 1);
  const data = new Uint8ClampedArray(3 * width * picture.height);
  for (let x = 0; x < width; x++) {
    const centre = (x + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(picture.width, Math.trunc(centre + support + 0.5));
    const weights = [];
    for (let i = first; i < last; i++)
      weights.push(Math.max(0, 1 - Math.abs((i - centre + 0.5) * (1 / support))));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    // Whole numbers, as Pillow reckons: floating point would round ties otherwise.
    const shares = weights.map((weight) => Math.floor((weight / total) * 2 ** 22 + 0.5));
    for (let y = 0; y < picture.height; y++)
      for (let c = 0; c < 3; c++) {
        let sum = 2 ** 21;
        for (let i = first; i < last; i++)
          sum += shares[i - first] * picture.data[3 * (y * picture.width + i) + c];
        data[3 * (y * width + x) + c] = Math.floor(sum / 2 ** 22);
      }
  }
  return { width, height: picture.height, data };
}

function cut(picture, left, top, right, bottom) {
  const data = new Uint8ClampedArray(3 * (right - left) * (bottom - top));
  for (let y = top; y < bottom; y++) {
    const start = 3 * (y * picture.width + left);
    data.set(picture.data.subarray(start, start + 3 * (right - left)), 3 * (y - top) * (right - left));
  }
  return { width: right - left, height: bottom - top, data };
}

// sfpose.preprocessing.aligned_crop: the square that a similarity cuts out, black outside.
export function alignedCrop(picture, matrix, size) {
  const crop = { width: size, height: size, data: new Uint8ClampedArray(3 * size * size) };
  const corners = [[0, 0], [1, 0], [1, 1], [0, 1]].map(([u, v]) => [
    matrix[0] * u + matrix[1] * v + matrix[2],
    matrix[3] * u + matrix[4] * v + matrix[5],
  ]);
  const xs = corners.map((corner) => corner[0]);
  const ys = corners.map((corner) => corner[1]);
  const left = Math.max(0, Math.floor(Math.min(...xs)) - 2);
  const top = Math.max(0, Math.floor(Math.min(...ys)) - 2);
  const right = Math.min(picture.width, Math.ceil(Math.max(...xs)) + 2);
  const bottom = Math.min(picture.height, Math.ceil(Math.max(...ys)) + 2);
  if (right <= left || bottom <= top) return crop;
  let part = cut(picture, left, top, right, bottom);
  let move = multiply([1, 0, -left, 0, 1, -top, 0, 0, 1], matrix);
  const step = hypot(matrix[0], matrix[3]) / size;
  if (step > 1.5) {
    const width = Math.max(1, round(part.width / step));
    const height = Math.max(1, round(part.height / step));
    move = multiply(scaling(width / part.width, height / part.height), move);
    part = resize(part, width, height);
  }
  const [a, b, c, d, e, f] = multiply(move, scaling(1 / size, 1 / size));
  for (let y = 0; y < size; y++)
    for (let x = 0; x < size; x++) {
      const u = a * (x + 0.5) + b * (y + 0.5) + c;
      const v = d * (x + 0.5) + e * (y + 0.5) + f;
      if (u < 0 || u >= part.width || v < 0 || v >= part.height) continue;
      sample(part, u - 0.5, v - 0.5, crop.data, 3 * (y * size + x));
    }
  return crop;
}

function sample({ width, height, data }, u, v, target, place) {
  const [x, y] = [Math.floor(u), Math.floor(v)];
  const [dx, dy] = [u - x, v - y];
  const clamp = (value, most) => Math.min(Math.max(value, 0), most - 1);
  const [x0, x1] = [clamp(x, width), clamp(x + 1, width)];
  const [y0, y1] = [clamp(y, height), clamp(y + 1, height)];
  for (let c = 0; c < 3; c++) {
    const at = (row, column) => data[3 * (row * width + column) + c];
    const upper = at(y0, x0) + (at(y0, x1) - at(y0, x0)) * dx;
    const lower = at(y1, x0) + (at(y1, x1) - at(y1, x0)) * dx;
    target[place + c] = Math.trunc(upper + (lower - upper) * dy);
  }
}

async function fetchFile(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address} must be there; the server answered ${answer.status}`);
  return answer;
}

class Network {
  static async load(folder) {
    const [manifest, model] = await Promise.all([
      fetchFile(`${folder}/manifest.json`).then((answer) => answer.json()),
      fetchFile(`${folder}/model.onnx`).then((answer) => answer.arrayBuffer()),
    ]);
    const session = await ort.InferenceSession.create(new Uint8Array(model));
    return Object.assign(new Network(), { manifest, session, size: manifest.input.size });
  }

  async run(crop) {
    const { mean: means, std } = this.manifest.input;
    const pixels = this.size * this.size;
    const input = new Float32Array(3 * pixels);
    for (let i = 0; i < pixels; i++)
      for (let c = 0; c < 3; c++)
        input[c * pixels + i] = (crop.data[3 * i + c] - 255 * means[c]) / (255 * std[c]);
    const tensor = new ort.Tensor("float32", input, [1, 3, this.size, this.size]);
    const answer = await this.session.run({ [this.session.inputNames[0]]: tensor });
    return Array.from(answer[this.session.outputNames[0]].data);
  }
}

export class Verifier {
  static async load(weights = "/weights") {
    const [descriptor, landmarks] = await Promise.all([
      Network.load(`${weights}/default`),
      Network.load(`${weights}/landmarks`),
    ]);
    return Object.assign(new Verifier(), { descriptor, landmarks });
  }

  async #look(picture, square, mirrored) {
    const part = mirrored ? multiply(square, MIRROR) : square;
    const output = await this.landmarks.run(alignedCrop(picture, part, this.landmarks.size));
    const found = [0, 1, 2, 3, 4].map((i) => {
      const [u, v] = [output[2 * i], output[2 * i + 1]];
      return [part[0] * u + part[1] * v + part[2], part[3] * u + part[4] * v + part[5]];
    });
    const points = mirrored ? MIRRORED_LANDMARKS.map((i) => found[i]) : found;
    return { points, logit: output[10] };
  }

  // All looks, each after the first at what the one before it found.
  async #follow(picture, square, looks, mirrored = false) {
    const seen = [await this.#look(picture, square, mirrored)];
    while (seen.length < looks) {
      const found = similarityToCanonical(seen.at(-1).points);
      const around = multiply(found, widening(LANDMARK_CROP_SCALE));
      seen.push(await this.#look(picture, around, mirrored));
    }
    return seen;
  }

  // The square of a face that lies on its side, or the same; one upside down is left so.
  async #setUpright(picture, square, looks) {
    const seen = [{ square, looks }];
    for (const turn of [-90, 90, 180]) {
      const turned = multiply(square, turning(turn));
      seen.push({ square: turned, looks: await this.#follow(picture, turned, 2) });
    }
    const logits = seen.map((one) => meanLogit(one.looks));
    const best = logits.indexOf(Math.max(...logits));
    return seen[best === 3 || logits[best] < UPRIGHT ? 0 : best];
  }

  // The mean of what is found in turned squares, by its likelihood.
  async #findAgain(picture, square) {
    const found = [];
    for (const turn of TURNS)
      found.push(await this.#follow(picture, multiply(square, turning(turn)), 3));
    const logits = found.map(meanLogit);
    const most = Math.max(...logits);
    const likelihoods = logits.map((logit) => Math.exp(logit - most));
    const total = likelihoods.reduce((sum, value) => sum + value, 0);
    const share = (i, axis) =>
      found.reduce((sum, looks, k) => sum + likelihoods[k] * looks.at(-1).points[i][axis], 0) / total;
    return [0, 1, 2, 3, 4].map((i) => [share(i, 0), share(i, 1)]);
  }

  // The mean logit of looks in squares of several sizes and at their mirror images.
  async #askAgain(picture, square) {
    const logits = [];
    for (const size of SIZES)
      for (const mirrored of [false, true])
        logits.push(meanLogit(await this.#follow(picture, multiply(square, widening(size)), 3, mirrored)));
    return mean(logits);
  }

  // Five points [x, y] in pixels of a loose crop of one face, and how surely it is one.
  async findLandmarks(picture) {
    let square = centredSquare(picture, Math.max(picture.width, picture.height));
    let looks = await this.#follow(picture, square, 2);
    if (meanLogit(looks) < UPRIGHT || moved(looks))
      ({ square, looks } = await this.#setUpright(picture, square, looks));
    let [, { points }] = looks;
    let logit = meanLogit(looks);
    const doubtful = Math.abs(logit) < SURE;
    if (doubtful || moved(looks)) points = await this.#findAgain(picture, square);
    if (doubtful) logit = await this.#askAgain(picture, square);
    const score = 1 / (1 + Math.exp(-logit));
    const cut = score >= this.#leastScore() && isCutOff(picture, points);
    return { points, score: cut || isBlurred(picture, points) ? 0 : score };
  }

  #leastScore() {
    return this.landmarks.manifest.min_face_score ?? 0;
  }

  // What the descriptor is taken of.
  async crop(picture) {
    let matrix = centredSquare(picture, (Math.min(picture.width, picture.height) * 224) / 256);
    if (this.descriptor.manifest.alignment === "five-landmarks") {
      const { points, score } = await this.findLandmarks(picture);
      if (score < this.#leastScore())
        throw new Error("a photo must show a face, sharp and not cut off; nothing was found");
      matrix = similarityToCanonical(points);
    }
    return alignedCrop(picture, matrix, this.descriptor.size);
  }

  // Values that are not negative and sum to 1.
  async embed(picture) {
    const values = await this.descriptor.run(await this.crop(picture));
    const sum = values.reduce((total, value) => total + value, 0);
    if (!(sum > 0)) throw new Error("a photo must show a face; nothing was found");
    const { normalization, less_mean: share = 0 } = this.descriptor.manifest.descriptor;
    const less = values.map((value) => Math.max(value - (share * sum) / values.length, 0));
    const whole = normalization === "l1" ? less.reduce((total, value) => total + value, 0) : 1;
    return less.map((value) => value / whole);
  }

  // What sfpose's TemplateVerifier.verify answers before a fit.
  async verify(first, second, targetFmr = 1e-3) {
    const alone = this.descriptor.manifest.calibration.conditions.find(
      (one) => one.template_images === 1 && one.probe_images === 1 && one.poses === null,
    );
    const entry = alone.thresholds.find(
      (one) => Math.abs(one.target_fmr - targetFmr) <= 1e-9 * targetFmr,
    );
    if (!entry) throw new Error(`there is no threshold for a false match rate of ${targetFmr}`);
    const [x, y] = [await this.embed(first), await this.embed(second)];
    let distance = 0;
    for (let i = 0; i < x.length; i++)
      if (x[i] + y[i] > 0) distance += (x[i] - y[i]) ** 2 / (x[i] + y[i]);
    return { match: distance <= entry.threshold, distance, threshold: entry.threshold, targetFmr };
  }
}

// Faces in a picture or a camera, by the networks that `faceflax export --format onnx` writes; see docs/browser.md.
import * as ort from "./ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need headers that a plain file server does not send

const LONGEST = 384; // of the detector's input: a face should be 20 of these pixels high
const STRIDES = [8, 16, 32];
const MIN_SCORE = 0.6;
const MAX_OVERLAP = 0.4;
// As faceflax/faces/square.py has them.
const SIDE = 2.71, DOWN = 0.115, BOX_SIDE = 0.96, NARROWEST = 0.8, LARGEST_RATIO = 2, FARTHEST = 0.5;

const scratch = document.createElement("canvas");
const pen = scratch.getContext("2d", { willReadFrequently: true });
pen.imageSmoothingQuality = "high";

/** Draws a part of a picture into a canvas of a size and returns its pixels, RGBA. */
function pixels(width, height, draw) {
  scratch.width = width;
  scratch.height = height;
  pen.imageSmoothingQuality = "high";
  draw(pen);
  return pen.getImageData(0, 0, width, height).data;
}

/** Blue, green and red planes of a picture, as the detector takes it, with black where it has no picture. */
function planes(source, scale, width, height) {
  const rgba = pixels(width, height, (to) => to.drawImage(source, 0, 0, source.width * scale, source.height * scale));
  const values = new Uint8Array(3 * width * height).fill(128);
  for (let i = 0; i < width * height; i++)
    for (let c = 0; c < 3; c++) if (rgba[4 * i + 3]) values[c * width * height + i] = rgba[4 * i + 2 - c];
  return values;
}

/** Makes faces of what the detector says of each place of its grids. */
function faces(values, width, height, scale) {
  const found = [];
  let at = 0;
  for (const stride of STRIDES)
    for (let row = 0; row < height / stride; row++)
      for (let column = 0; column < width / stride; column++, at += 15) {
        const score = 1 / (1 + Math.exp(-values[at]));
        if (score < MIN_SCORE) continue;
        const [x, y] = [(column + 0.5) * stride, (row + 0.5) * stride];
        const place = (i) => [(x + values[at + i] * stride) / scale, (y + values[at + i + 1] * stride) / scale];
        const [middleX, middleY] = place(1);
        const sides = [3, 4].map((i) => (stride * Math.exp(Math.min(Math.max(values[at + i], -4), 6))) / scale);
        const box = [middleX - sides[0] / 2, middleY - sides[1] / 2, ...sides];
        found.push({ box, score, landmarks: [5, 7, 9, 11, 13].map(place) });
      }
  found.sort((one, other) => other.score - one.score);
  return found.filter((face, i) => (face.kept = !found.slice(0, i).some((best) => best.kept && overlap(best, face) > MAX_OVERLAP)));
}

/** Intersection over union. */
function overlap({ box: a }, { box: b }) {
  const across = Math.max(0, Math.min(a[0] + a[2], b[0] + b[2]) - Math.max(a[0], b[0]));
  const down = Math.max(0, Math.min(a[1] + a[3], b[1] + b[3]) - Math.max(a[1], b[1]));
  return (across * down) / (a[2] * a[3] + b[2] * b[3] - across * down);
}

/** The square about a face, turned with its head: centre, side, angle. */
function square({ box, landmarks }) {
  const plain = { x: box[0] + box[2] / 2, y: box[1] + box[3] / 2, side: BOX_SIDE * Math.max(box[2], box[3]), angle: 0 };
  const [left, right, , mouthLeft, mouthRight] = landmarks;
  const middle = (a, b) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
  const [eyes, mouth] = [middle(left, right), middle(mouthLeft, mouthRight)];
  const across = [right[0] - left[0], right[1] - left[1]];
  const down = [mouth[0] - eyes[0], mouth[1] - eyes[1]];
  const axis = [across[0] + down[1], across[1] - down[0]];
  const [wide, high] = [Math.hypot(...across), Math.hypot(...down)];
  const side = SIDE * Math.max((wide + high) / 2, NARROWEST * Math.max(wide, high));
  const length = Math.hypot(...axis);
  if (!length || side <= plain.side / LARGEST_RATIO || side >= plain.side * LARGEST_RATIO) return plain;
  const [cos, sin] = [axis[0] / length, axis[1] / length];
  const turned = { x: eyes[0] - DOWN * side * sin, y: eyes[1] + DOWN * side * cos, side, angle: Math.atan2(sin, cos) };
  return Math.hypot(turned.x - plain.x, turned.y - plain.y) > FARTHEST * plain.side ? plain : turned;
}

/** Cuts a face out upright, as grey. A browser shrinks by two at most without aliasing, so it is halved step by step. */
function crop(source, face, { image_size: size, crop_margin: margin }) {
  const { x, y, side, angle } = square(face);
  const whole = side * (1 + 2 * margin);
  const finer = Math.max(1, Math.ceil(whole / size));
  const large = size * finer;
  const rgba = pixels(large, large, (to) => {
    to.translate(large / 2, large / 2);
    to.scale(large / whole, large / whole);
    to.rotate(-angle);
    to.translate(-x, -y);
    to.drawImage(source, 0, 0);
  });
  const grey = new Uint8Array(size * size);
  for (let row = 0; row < size; row++)
    for (let column = 0; column < size; column++) {
      let sum = 0;
      for (let i = 0; i < finer; i++)
        for (let j = 0; j < finer; j++) {
          const k = 4 * ((row * finer + i) * large + column * finer + j);
          sum += 0.299 * rgba[k] + 0.587 * rgba[k + 1] + 0.114 * rgba[k + 2];
        }
      grey[row * size + column] = Math.round(sum / finer ** 2);
    }
  return grey;
}

/** Finds and labels the faces of a canvas. */
export async function analyze(source, networks) {
  const scale = Math.min(1, LONGEST / Math.max(source.width, source.height));
  const [width, height] = [source.width, source.height].map((side) => Math.max(64, Math.ceil((side * scale) / 32) * 32));
  const images = new ort.Tensor("uint8", planes(source, scale, width, height), [1, 3, height, width]);
  const { places } = await networks.detector.session.run({ images });
  const found = faces(places.data, width, height, scale);
  for (const face of found)
    for (const name of ["emotion", "gender"]) {
      const { session, record } = networks[name];
      const size = record.image_size;
      const input = new ort.Tensor("uint8", crop(source, face, record), [1, 1, size, size]);
      const { probabilities } = await session.run({ images: input });
      face[name] = record.labels.map((label, i) => [label, probabilities.data[i]]);
      const [label, share] = face[name].reduce((best, each) => (each[1] > best[1] ? each : best));
      face[`said_${name}`] = label + (share < (record.sure ?? 0) ? "?" : "");
    }
  return found;
}

const [canvas, status, list] = ["picture", "status", "faces"].map((id) => document.getElementById(id));
const to = canvas.getContext("2d");

function show(source, found) {
  canvas.width = source.width;
  canvas.height = source.height;
  to.drawImage(source, 0, 0);
  to.lineWidth = Math.max(2, source.width / 250);
  to.font = `${Math.max(14, source.width / 32)}px system-ui, sans-serif`;
  const line = 1.3 * Math.max(14, source.width / 32);
  to.textBaseline = "middle";
  found.forEach((face, i) => {
    const said = `${i + 1} ${face.said_emotion}, ${face.said_gender}`;
    const wide = to.measureText(said).width + line / 2;
    const left = Math.max(0, Math.min(face.box[0], source.width - wide)), top = Math.max(0, face.box[1] - line);
    to.strokeStyle = "#ffd34d";
    to.strokeRect(...face.box);
    to.fillStyle = "#000c"; // the text is read over any picture
    to.fillRect(left, top, wide, line);
    to.fillStyle = "#ffd34d";
    to.fillText(said, left + line / 4, top + line / 2);
  });
  list.replaceChildren(...found.map((face, i) => {
    const section = document.createElement("section");
    const title = section.appendChild(document.createElement("h2"));
    title.textContent = `Face ${i + 1}: perceived as ${face.said_emotion}, ${face.said_gender}`;
    const table = section.appendChild(document.createElement("table"));
    for (const [label, share] of [...face.emotion, ...face.gender]) {
      const row = table.insertRow();
      const head = row.appendChild(document.createElement("th"));
      head.scope = "row";
      head.textContent = label;
      const meter = row.insertCell().appendChild(document.createElement("meter"));
      meter.value = share;
      meter.setAttribute("aria-label", label);
      row.insertCell().textContent = `${Math.round(100 * share)}%`;
    }
    section.dataset.face = JSON.stringify({ box: face.box, emotion: face.emotion, gender: face.gender });
    return section;
  }));
}

/** A canvas with a picture or a video's frame, of at most 1280 pixels. */
function copy(source, width, height) {
  const scale = Math.min(1, 1280 / Math.max(width, height));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
  canvas.getContext("2d").drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas;
}

const said = (found) => (found.length === 1 ? "1 face" : `${found.length} faces`);
let stream = null;

function stop() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  document.getElementById("camera").textContent = "Start the camera";
}

async function start(networks) {
  if (stream) return stop();
  if (!navigator.mediaDevices) {
    status.textContent = "This browser gives no camera to this page: open it at localhost, or over HTTPS.";
    return;
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 360 } });
  } catch (error) {
    status.textContent = `There is no camera (${error.name}): allow it beside the address, or choose a picture.`;
    return;
  }
  document.getElementById("camera").textContent = "Stop the camera";
  const video = document.createElement("video");
  video.muted = true;
  video.srcObject = stream;
  await video.play();
  while (stream) {
    const begin = performance.now();
    const frame = copy(video, video.videoWidth, video.videoHeight);
    const found = await analyze(frame, networks);
    if (!stream) break;
    show(frame, found);
    status.textContent = `${said(found)}, ${Math.round(performance.now() - begin)} ms a picture`;
    await new Promise(requestAnimationFrame);
  }
}

async function read(file, networks) {
  stop();
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    status.textContent = `${file.name} is not a picture that this browser reads; choose a JPEG, PNG or WebP.`;
    return;
  }
  const frame = copy(picture, picture.width, picture.height);
  const found = await analyze(frame, networks);
  show(frame, found);
  status.textContent = said(found);
}

try {
  const records = await (await fetch("networks.json")).json();
  const networks = {};
  for (const [name, record] of Object.entries(records))
    networks[name] = { record, session: await ort.InferenceSession.create(record.file) };
  document.getElementById("camera").onclick = () => start(networks);
  document.getElementById("file").onchange = ({ target }) => target.files[0] && read(target.files[0], networks);
  status.textContent = "Ready.";
} catch (error) {
  status.textContent = `The networks could not be loaded (${error.message}): serve this folder, do not open the file.`;
}

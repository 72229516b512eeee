/** The page: buttons, files and camera in; picture, 3D view, table and downloads out. */

import { findHands } from "./finder";
import { loadNetworks, type Device, type Networks } from "./networks";
import { drawOverlay } from "./overlay";
import { overlayName, tableRow, toJson, type Result } from "./results";
import { HandScene } from "./scene";
import { readSettings } from "./settings";
import { cameraOf, close, Frame, nextFrame, openCamera, openVideo } from "./sources";
import { Tracker } from "./tracker";

type State = "loading" | "ready" | "busy" | "done" | "live" | "error";

function element<T extends HTMLElement = HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

const settings = readSettings();
const picture = element<HTMLCanvasElement>("picture");
const cameraButton = element<HTMLButtonElement>("camera");
const filesInput = element<HTMLInputElement>("files");
const pauseButton = element<HTMLButtonElement>("pause");
const mirrorBox = element<HTMLInputElement>("mirror");
const frame = new Frame();
const video = document.createElement("video");
video.muted = true;
video.playsInline = true;

let networks: Networks | null = null;
let scene: HandScene | null = null;
let results: Result[] = [];
let files: File[] = []; // the photograph of each result
let shown = 0; // number of the result on the page
let turn = 0; // grows with every new source, so that an earlier one stops

function setState(state: State, text?: string): void {
  document.body.dataset.state = state;
  element("pause").hidden = element("stop").hidden = state !== "live";
  if (text !== undefined) element("status").textContent = text;
}

function fail(error: unknown): void {
  setState("error", `It did not work: ${error instanceof Error ? error.message : String(error)}`);
}

function givenFocal(): number | null {
  const value = Number(element<HTMLInputElement>("focal").value);
  return value > 0 ? value : null;
}

/** Show the result of the picture that `frame` holds. */
function show(result: Result): void {
  drawOverlay(picture, frame.canvas, result.hands, settings, mirrorBox.checked);
  scene?.show(result.hands, mirrorBox.checked);
  const rows = result.hands.map((hand, number) => [String(number + 1), ...tableRow(hand, settings)]);
  const body = element("hands").querySelector("tbody")!;
  body.replaceChildren(...(rows.length ? rows.map(row) : [row(["No hand found"])]));
  element<HTMLButtonElement>("save-json").disabled = false;
  element<HTMLButtonElement>("save-picture").disabled = false;
  const focal = result.K[0][0].toFixed(0);
  element("camera-note").textContent = {
    given: `Focal length: ${focal} px, as given.`,
    EXIF: `Focal length: ${focal} px, from the EXIF data of the photograph.`,
    guess: `Focal length: ${focal} px, a guess. Distances are as wrong as it is: enter the one of your camera.`,
  }[result.focalFrom];
}

function row(cells: string[]): HTMLTableRowElement {
  const line = document.createElement("tr");
  for (const text of cells) line.insertCell().textContent = text;
  if (cells.length === 1) line.cells[0].colSpan = 7;
  return line;
}

function countOf(hands: number): string {
  return hands === 1 ? "1 hand" : `${hands} hands`;
}

/** Find the hands of photographs, one after the other. */
async function readPhotographs(chosen: File[]): Promise<void> {
  const mine = begin();
  [results, files] = [[], []];
  for (const file of chosen) {
    setState("busy", `Reading ${file.name} …`);
    const pixels = await frame.decode(file).catch(() => {
      throw new Error(`${file.name} is not an image that this browser can read`);
    });
    const camera = cameraOf(pixels, givenFocal(), await file.arrayBuffer(), settings.focal);
    const start = performance.now();
    const hands = await findHands(networks!, pixels, camera.K);
    if (mine !== turn) return;
    const ms = performance.now() - start;
    results.push({ image: file.name, ...camera, hands });
    files.push(file);
    shown = results.length - 1;
    show(results[shown]);
    setState("busy", `${file.name}: ${countOf(hands.length)}, ${ms.toFixed(0)} ms`);
    document.body.dataset.ms = ms.toFixed(2);
  }
  turnPage(0);
  setState("done");
}

/** Show an earlier or later photograph. */
async function turnPage(step: number): Promise<void> {
  shown = Math.min(Math.max(shown + step, 0), results.length - 1);
  element("pager").hidden = results.length < 2;
  element("position").textContent = `${shown + 1} of ${results.length}`;
  element<HTMLButtonElement>("previous").disabled = shown === 0;
  element<HTMLButtonElement>("next").disabled = shown === results.length - 1;
  element("name").textContent = results[shown].image;
  if (step === 0) return;
  await frame.decode(files[shown]);
  show(results[shown]);
}

/** Follow the hands of a camera or a video until another source starts. */
async function follow(open: () => Promise<void>, name: string): Promise<void> {
  const mine = begin();
  setState("busy", `Starting ${name} …`);
  await open();
  if (mine !== turn) return;
  const isFile = !video.srcObject;
  const tracker = new Tracker();
  const times: number[] = []; // ms, of the last frames
  setState("live", `${name} is running`);
  pauseButton.textContent = "Pause";
  files = [];
  element("pager").hidden = true;
  for (;;) {
    await nextFrame(video);
    if (mine !== turn) return;
    const start = performance.now();
    const pixels = frame.take(video, video.videoWidth, video.videoHeight);
    const camera = cameraOf(pixels, givenFocal(), null, settings.focal);
    const most = Math.min(Math.max(Number(element<HTMLInputElement>("most").value) || 1, 1), 8);
    const hands = await tracker.next(networks!, pixels, camera.K, most);
    if (mine !== turn) return;
    results = [{ image: isFile ? `${name}#t=${video.currentTime.toFixed(3)}` : name, ...camera, hands }];
    show(results[0]);
    times.push(performance.now());
    if (times.length > 30) times.shift();
    const rate = (1000 * (times.length - 1)) / Math.max(times[times.length - 1] - times[0], 1);
    const ms = performance.now() - start;
    element("name").textContent = `${name}: ${rate.toFixed(1)} frames/s, ${ms.toFixed(0)} ms per frame`;
    document.body.dataset.ms = ms.toFixed(2);
    document.body.dataset.frames = String(Number(document.body.dataset.frames ?? 0) + 1);
  }
}

/** End the earlier source; returns the number of the new one. */
function begin(): number {
  close(video);
  delete document.body.dataset.frames;
  return ++turn;
}

function stop(): void {
  begin();
  setState("done", "Stopped; the last picture stays.");
}

function open(chosen: File[]): void {
  const clip = chosen.find((file) => file.type.startsWith("video/"));
  const photographs = chosen.filter((file) => !file.type.startsWith("video/"));
  if (!networks || !chosen.length) return;
  const reading = clip ? follow(() => openVideo(video, clip), clip.name) : readPhotographs(photographs);
  reading.catch(fail);
}

function save(name: string, content: Blob): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function listen(): void {
  const click = (id: string, action: () => void) => element(id).addEventListener("click", action);
  click("camera", () => {
    const facing = element<HTMLSelectElement>("facing").value;
    mirrorBox.checked = facing === "user";
    follow(() => openCamera(video, facing), "camera").catch(fail);
  });
  click("stop", stop);
  click("pause", () => {
    if (video.paused) void video.play();
    else video.pause();
    pauseButton.textContent = video.paused ? "Go on" : "Pause";
  });
  click("previous", () => void turnPage(-1));
  click("next", () => void turnPage(1));
  click("save-json", () => save("joints.json", new Blob([toJson(results, settings)], { type: "application/json" })));
  click("save-picture", () => picture.toBlob((blob) => blob && save(overlayName(results[shown]?.image ?? "frame"), blob)));
  filesInput.addEventListener("change", () => {
    open([...filesInput.files!]);
    filesInput.value = "";
  });
  mirrorBox.addEventListener("change", () => results.length && show(results[Math.min(shown, results.length - 1)]));
  element("focal").addEventListener("change", () => files.length && open(files));
  const drop = element("drop");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    mirrorBox.checked = false;
    open([...event.dataTransfer!.files]);
  });
}

async function start(): Promise<void> {
  element("about").textContent = settings.about;
  try {
    scene = new HandScene(element<HTMLCanvasElement>("scene"), settings);
  } catch {
    element("keys").textContent = "The 3D view needs WebGL, which this browser does not offer.";
  }
  listen();
  const begun = performance.now();
  const wanted = new URLSearchParams(location.search).get("device") as Device | null;
  networks = await loadNetworks(settings, wanted);
  const seconds = ((performance.now() - begun) / 1000).toFixed(1);
  const device = networks.device === "webgpu" ? "WebGPU" : "WebAssembly";
  element("runtime").textContent = `The networks run in ONNX Runtime on ${device}; loaded in ${seconds} s.`;
  cameraButton.disabled = filesInput.disabled = false;
  setState("ready", "Ready: start the camera, or open or drop photographs or a video.");
}

start().catch(fail);

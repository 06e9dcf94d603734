-- Cells of a notebook as pandoc reads them: code is folded, pictures get the cell's alternative text, tables and formulas may scroll.
local kinds = { note = 'Note', tip = 'Tip', warning = 'Warning', important = 'Important', caution = 'Caution' }

local function html(text) return pandoc.RawBlock('html', text) end
local function escaped(text) return (text:gsub('&', '&amp;'):gsub('<', '&lt;'):gsub('>', '&gt;')) end

local function code_cell(el)
  local fold, alts, n = el.attributes.fold, pandoc.json.decode(el.attributes.alts or '[]'), 0
  local summary = el.attributes.summary or 'Code'
  local content = pandoc.Blocks {}
  for i, block in ipairs(el.content) do
    if i > 1 or block.t ~= 'CodeBlock' then content:insert(block)
    elseif fold ~= 'hidden' and block.text ~= '' then
      content:extend { html('<details class="code"' .. (fold == 'open' and ' open' or '') .. '><summary>' .. escaped(summary) .. '</summary>'), block, html('</details>') }
    end
  end
  local cell = pandoc.Div(content, pandoc.Attr(el.identifier, { 'cell', 'code' }))
  return cell:walk { Image = function(image)
    n = n + 1
    local alt = alts[math.min(n, #alts)]
    if alt then image.attributes.alt = alt end
    return image
  end }
end

local function callout(el, kind)
  local title, body = el.attributes.title and pandoc.Inlines(el.attributes.title), el.content
  if not title and body[1] and body[1].t == 'Header' then title = body[1].content; body:remove(1) end
  title = title or pandoc.Inlines(kinds[kind])
  local classes = { 'callout', 'callout-' .. kind }
  local collapse = el.attributes.collapse
  if collapse then
    local written = pandoc.write(pandoc.Pandoc { pandoc.Plain(title) }, 'html', { html_math_method = 'mathml' })
    body = pandoc.Blocks { html('<details' .. (collapse == 'false' and ' open' or '') .. '><summary class="callout-title">' .. written .. '</summary>') } .. body .. { html('</details>') }
  else body = pandoc.Blocks { pandoc.Div(pandoc.Plain(title), pandoc.Attr('', { 'callout-title' })) } .. body end
  return pandoc.Div(body, pandoc.Attr(el.identifier, classes))
end

function Div(el)
  if el.classes:includes 'cell' and el.classes:includes 'code' then return code_cell(el) end
  for kind in pairs(kinds) do
    if el.classes:includes('callout-' .. kind) and not el.classes:includes 'callout' then return callout(el, kind) end
  end
end

function Table(el)
  for i, spec in ipairs(el.colspecs) do el.colspecs[i] = { spec[1], nil } end
  return pandoc.Div(el, pandoc.Attr('', { 'table' }))
end

-- a name or a flag does not break at its hyphens
function Code(el)
  if #el.text <= 14 and not el.text:find ' ' then el.classes:insert 'word' end -- one word, whole even in a narrow cell on a phone
  if #el.text <= 28 then el.classes:insert 'short'; return el end
end

function Math(el)
  if el.mathtype == 'DisplayMath' then return pandoc.Span(el, pandoc.Attr('', { 'formula' })) end
end

-- each cell is read alone, so two headings may have got one anchor: that of a documented name stays, as links are made to it
function Pandoc(doc)
  local used, api = {}, {}
  local function each_name(f) return { traverse = 'topdown', Div = function(el) if el.classes:includes 'api' then return el:walk { Header = f }, false end end } end
  doc:walk(each_name(function(h) api[h.identifier] = true end))
  local function heading(h)
    local n, id = 1, h.identifier
    while used[h.identifier] or (n == 1 and api[id]) do h.identifier = id .. '-' .. n; n = n + 1 end
    used[h.identifier] = true
    return h:walk { Link = function(link) return link.content end }
  end
  local names = each_name(function(h)
    if used[h.identifier] then h = heading(h) end
    used[h.identifier] = true
    h.content = pandoc.Inlines { pandoc.Code(pandoc.utils.stringify(h.content)) }
    return h
  end)
  names.Header = heading
  return doc:walk(names)
end

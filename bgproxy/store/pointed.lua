-- What tells a state's pointer from every other, also of another history, of its JSON; nil where it cannot be read.
local function pointed(text)
  local is_read, pointer = pcall(cjson.decode, text)
  if is_read and type(pointer) == 'table' then
    is_read, text = pcall(string.format, '%d %s %.6f', pointer.epoch, pointer.active, pointer.at)
    return is_read and text or nil
  end
end
